# SPDX-License-Identifier: Apache-2.0
"""``pixelrefer build-engines``: TensorRT engines of an exported folder, for the machine it runs on."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from pixelrefer_ros.detached import Detached

_LOOK_AGAIN_S = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments.

    Args:
        parser: of this verb.
    """
    parser.description = (
        "Build the TensorRT engines of an exported folder, on the machine that will run them. What is up to "
        "date is left alone. Exit status: 0 every engine is there, 2 bad input or a build that fails."
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="made by `pixelrefer export`")
    parser.add_argument(
        "--profile", metavar="NAME", help="of a class of machine, or a .yaml file; default: by the GPU"
    )
    parser.add_argument(
        "--engines", type=Path, metavar="DIR", help="where to keep them; default: DIR/engines"
    )
    parser.add_argument(
        "--device", default="cuda", metavar="GPU", help="cuda or cuda:N, that will run them; default: cuda"
    )
    parser.add_argument(
        "--graph", action="append", default=[], metavar="NAME", help="only this; may be repeated"
    )
    parser.add_argument("--again", action="store_true", help="build also what is up to date")
    parser.add_argument(
        "--allow-warnings", action="store_true", help="go on when TensorRT warns; its results may be wrong"
    )
    parser.add_argument(
        "--list-profiles", action=_ListProfiles, help="say which profiles there are, and stop"
    )


def run(args: argparse.Namespace) -> int:
    """Build.

    Args:
        args: of `add_arguments`.

    Returns:
        The exit status.

    Raises:
        PixelReferError: see `pixelrefer_ros.engines.build_engines`; no TensorRT or no GPU is one too.
        KeyboardInterrupt: interrupted; the engines that were finished stay.
    """
    from tqdm import tqdm

    from pixelrefer_ros.engines import Asked, build_engines
    from pixelrefer_ros.runtime.manifest import read_manifest
    from pixelrefer_ros.runtime.tensorrt_machine import current_gpu, import_tensorrt

    read_manifest(args.folder)  # a wrong folder is told before a missing GPU
    asked = Asked(args.profile, args.engines, args.graph, args.again, args.allow_warnings)
    trt, gpu, bar = import_tensorrt(), current_gpu(args.device), tqdm if sys.stderr.isatty() else None
    stop = threading.Event()

    def build() -> list[str]:
        return build_engines(args.folder, trt, gpu, asked, bar=bar, stopped=stop.is_set)

    # TensorRT builds in C++, where Python sees no interrupt: another thread builds, and is told to stop.
    building = Detached(build, "pixelrefer-building")
    try:
        building.start()
        _wait_for(building)
    except KeyboardInterrupt:
        stop.set()
        _wait_or_leave(building)
        raise
    building.result()
    return 0


def _wait_for(building: Detached[list[str]]) -> None:
    while not building.done(_LOOK_AGAIN_S):
        pass


def _wait_or_leave(building: Detached[list[str]]) -> None:
    """Waits until the build has stopped; interrupted once more, ends the process as it is.

    (Python must not be torn down around a thread that TensorRT calls Python from: that aborts.)
    """
    try:
        print("pixelrefer: stopping at TensorRT's next step; interrupt again to end at once", file=sys.stderr)
        _wait_for(building)
    except KeyboardInterrupt:
        print("pixelrefer: interrupted", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(128 + signal.SIGINT)


class _ListProfiles(argparse.Action):
    """Prints the shipped profiles and ends the program, as ``--help`` does."""

    def __init__(self, option_strings: list[str], dest: str, **rest: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **rest)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Prints a line for each."""
        from pixelrefer_ros.engines import shipped_profiles

        for profile in shipped_profiles():
            print(
                f"{profile.name}: {', '.join(profile.gpu_names)}; {'/'.join(profile.precisions)}; "
                f"up to {profile.patch_budget} patches, {profile.objects} objects, "
                f"{profile.context_length} positions"
            )
        parser.exit()
