# SPDX-License-Identifier: Apache-2.0
"""``pixelrefer <verb>``: the command line.

A verb is a module of `pixelrefer_ros.offline` with ``add_arguments(parser)`` and ``run(args) -> int``; it is
imported only when its verb is given, so that help and typing errors need no models.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from pixelrefer_ros import __version__
from pixelrefer_ros.errors import PixelReferError

VERBS = {
    "export": "write a model as ONNX graphs that run without torch's networks",
    "replay": "track and ask over a recorded camera topic, with no ROS",
    "verify": "check a model folder against the numbers of a reference implementation",
}
BAD_INPUT = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: without the program's name; None takes those of the process.

    Returns:
        The exit status: the verb's own (0 is good), 2 for bad input (one line on stderr), 130 when
        interrupted.

    Raises:
        SystemExit: by argparse, for ``--help``, ``--version`` (0) and wrong arguments (2).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="pixelrefer", description="Ask what anything a camera sees is.")
    parser.add_argument("--version", action="version", version=f"pixelrefer {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    # The first argument that is no option is the verb: the program itself has no option with a value.
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    try:
        for verb, summary in VERBS.items():
            of_verb = verbs.add_parser(verb, help=summary)
            if verb == wanted:
                module = importlib.import_module(f"pixelrefer_ros.offline.{verb}")
                module.add_arguments(of_verb)
        args = parser.parse_args(arguments)  # ends here unless a known verb is given
        return int(module.run(args))
    except PixelReferError as error:
        print(f"pixelrefer: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("pixelrefer: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
