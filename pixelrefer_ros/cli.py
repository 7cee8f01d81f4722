# SPDX-License-Identifier: Apache-2.0
"""``pixelrefer <verb>``: the command line.

A verb is a module with ``add_arguments(parser)`` and ``run(args) -> int``; it is
imported only when its verb is given, so that help and typing errors need no models.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from pixelrefer_ros import __version__
from pixelrefer_ros.errors import PixelReferError

VERBS = {
    "build-engines": ("offline.build_engines", "compile an exported folder for this machine's GPU"),
    "evaluate": ("training.evaluate", "score models on the shapes world"),
    "export": ("offline.export", "write a model as ONNX graphs that run without torch's networks"),
    "replay": ("offline.replay", "track and ask over a recorded camera topic, with no ROS"),
    "train": ("training.train", "train a model on the shapes world, or fine-tune a released one"),
    "verify": ("offline.verify", "check a model folder against the numbers of a reference implementation"),
}
"""Verb -> its module below this package, and what it does in a line."""
BAD_INPUT = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: without the program's name; None takes those of the process.

    Returns:
        The exit status: the verb's own (0 is good), 2 for bad input and for a file or folder that cannot be
        written (one line on stderr), 130 when interrupted.

    Raises:
        SystemExit: by argparse, for ``--help``, ``--version`` (0) and wrong arguments (2).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="pixelrefer", description="Ask what anything a camera sees is.")
    parser.add_argument("--version", action="version", version=f"pixelrefer {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    # The first argument that is no option is the verb: the program itself has no option with a value.
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    args = argparse.Namespace()
    try:
        for verb, (module_name, summary) in VERBS.items():
            of_verb = verbs.add_parser(verb, help=summary)
            if verb == wanted:
                module = importlib.import_module(f"pixelrefer_ros.{module_name}")
                module.add_arguments(of_verb)
        args = parser.parse_args(arguments)  # ends here unless a known verb is given
        return int(module.run(args))
    except PixelReferError as error:
        print(f"pixelrefer: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"pixelrefer: {_refused(args, error)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("pixelrefer: interrupted", file=sys.stderr)
        return INTERRUPTED


def _refused(args: argparse.Namespace, error: OSError) -> str:
    """What the system did not let the verb do: mostly to write where an option says."""
    from pixelrefer_ros.runtime.whole_files import not_written  # with its room comes torch

    for option in ("out", "json", "engines"):
        place = getattr(args, option, None)
        if place is not None and _concerns(error, Path(place).resolve()):
            return not_written(f"--{option} {place}", error)
    reason = error.strerror or str(error)
    return reason if error.filename is None else f"{error.filename}: {reason}"


def _concerns(error: OSError, place: Path) -> bool:
    """Whether an error is about a place, what is in it or what it is in; a full disk names nothing."""
    if error.filename is None:
        return True
    named = Path(str(error.filename)).resolve()
    return named == place or place in named.parents or named in place.parents


if __name__ == "__main__":
    sys.exit(main())
