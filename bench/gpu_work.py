# SPDX-License-Identifier: Apache-2.0
"""One job of `gpu.py`, in a process of its own: its peak memory is its own, and its end ends nothing else.

Every result is a line of standard output as soon as it is there: `MARK` and a JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from gpu_jobs import MARK
from gpu_language import decoding, fixed_logits, looking
from gpu_models import SHAPES, build_language, build_tracker, random_network, write_tracker
from gpu_timing import SMOKE, Counts, Measured, begin_memory, busy_ms
from gpu_tracker import OBJECTS, RULES, following
from machine import commit, machine

from pixelrefer_ros.model import RegionNetwork, open_network
from pixelrefer_ros.runtime.tensorrt_backend import TensorRtBackend
from pixelrefer_ros.runtime.tensorrt_machine import current_gpu, import_tensorrt
from pixelrefer_ros.tracking import StreamTracker

Parts = dict[str, Callable[[], Measured]]


def main() -> int:
    """Does the job and says what came out of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("language", "tracker"))
    parser.add_argument("--parts", nargs="+", required=True)
    parser.add_argument("--shape", required=True)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--folder", type=Path, required=True, help="what jobs leave for each other")
    parser.add_argument("--profile", help="of the machine, for TensorRT")
    parser.add_argument("--build", action="store_true", help="only export and build engines")
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    found = surroundings()
    say(environment=found)
    if found["gpu"] is None and not args.smoke:
        return 0
    # With its index: tensors say theirs.
    device = torch.device("cpu" if args.smoke else "cuda:0")
    exported = args.folder / f"{args.what}-{args.shape}-exported"
    if args.build:
        return attempted("build", lambda: Measured(build(args, exported, device), {})) is None
    opening = tracker_parts if args.what == "tracker" else language_parts
    try:
        parts = opening(args, exported, device, SMOKE if args.smoke else Counts())
    except Exception as error:
        traceback.print_exc()
        say(failed=f"{type(error).__name__}: {error}")
        return 1
    found_by = {name: attempted(name, parts[name]) for name in args.parts}
    # Last: the profiler slows down what comes after it, and where it ends the process all times are told.
    for name, measured in found_by.items():
        if measured is not None:
            watched(name, measured, device)
    return None in found_by.values()


def attempted(name: str, part: Callable[[], Measured]) -> Measured | None:
    """Runs a part and says what it found, or why it failed: then there is nothing."""
    try:
        found = part()
    except Exception as error:
        traceback.print_exc()
        say(part=name, failed=f"{type(error).__name__}: {error}")
        return None
    say(part=name, values=found.values)
    return found


def watched(name: str, found: Measured, device: torch.device) -> None:
    """Says a part again, with how long the GPU worked in a call, where that can be found out."""
    busy = {times: busy_ms(call, device) for times, call in found.calls.items()}
    values = {times: found.values[times] | {"gpu_ms": ms} for times, ms in busy.items() if ms is not None}
    if values:
        say(part=name, values=found.values | values)


def say(**fields: Any) -> None:
    """Prints a line for the process that waits; a line of its own, whatever was printed before."""
    print("\n" + MARK + json.dumps(fields), flush=True)


def surroundings() -> dict[str, Any]:
    """Commit, machine, versions, and the GPU: None where torch sees none."""
    gpu = str(current_gpu()) if torch.cuda.is_available() else None
    there = {"cuda": torch.version.cuda, "gpu": gpu, "tensorrt": find_spec("tensorrt") is not None}
    return {"commit": commit(), **machine(), **there}


def language_parts(args: argparse.Namespace, exported: Path, device: torch.device, counts: Counts) -> Parts:
    """Opens the model; what can then be measured."""
    shape = SHAPES[args.shape]
    if args.backend == "tensorrt":
        network: RegionNetwork = open_network(exported, TensorRtBackend(None, device), device)
    else:
        network = random_network(shape, device, torch.bfloat16)
    decoder = network.decoder()
    begin_memory(device)
    reference = args.folder / f"logits-{args.shape}.npy"

    def decode() -> Measured:
        logits, differ = fixed_logits(network, decoder), None
        if args.backend == "torch":
            np.save(reference, logits)
        elif reference.is_file():
            expected = np.load(reference)
            differ = float(np.linalg.norm(logits - expected) / np.linalg.norm(expected))
        values, calls = decoding(network, decoder, shape, counts)
        return Measured(values | {"logits_differ_from_torch": differ}, calls)

    return {"objects": lambda: looking(network, decoder, counts), "decode": decode}


def tracker_parts(args: argparse.Namespace, exported: Path, device: torch.device, counts: Counts) -> Parts:
    """Opens the tracker; its one part."""
    if args.backend == "tensorrt":
        folder = exported
    else:
        folder = write_tracker(args.shape, args.folder / f"tracker-{args.shape}")
    tracker = StreamTracker.from_pretrained(
        folder,
        device=str(device),
        dtype="bfloat16",
        backend=args.backend,
        max_objects=OBJECTS,
        states=RULES,
    )
    begin_memory(device)
    return {"tracker": lambda: following(tracker, device, counts)}


def build(args: argparse.Namespace, exported: Path, device: torch.device) -> dict[str, Any]:
    """Exports what is random, and builds its engines; how long that took."""
    trt, gpu = import_tensorrt(), current_gpu(device)
    options: dict[str, Any] = {"precision": "bf16", "profile": args.profile}
    if args.what == "tracker":
        checkpoint = write_tracker(args.shape, args.folder / f"tracker-{args.shape}")
        return dict(build_tracker(checkpoint, exported, trt, gpu, **options))
    # Made on the GPU for the weights of the torch job: another generator would give others.
    network = random_network(SHAPES[args.shape], device, torch.bfloat16)
    for module in (network.vision, network.object_encoder, network.language):
        module.to("cpu")
    torch.cuda.empty_cache()  # building needs the room
    return dict(build_language(network, SHAPES[args.shape], exported, trt, gpu, **options))


if __name__ == "__main__":
    raise SystemExit(main())
