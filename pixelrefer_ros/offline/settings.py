# SPDX-License-Identifier: Apache-2.0
"""The node's parameters for a replay: options of its own, `-p NAME:=VALUE`, and a robot's parameters file."""

from __future__ import annotations

import argparse
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pixelrefer_ros.errors import InputFileError, ParameterError
from pixelrefer_ros.offline.fields import parse_file
from pixelrefer_ros.parameters import BY_NAME, Parameters, Value, check_parameters, find_parameter

OPTIONS = ("model", "tracker_model", "device", "precision", "backend")
"""Parameters with an option of their own."""
_OTHERS = (
    "engine_dir",
    "max_objects",
    "max_batch",
    "max_question_chars",
    "lost_after_frames",
    "lost_after",
    "find_again_score",
    "history_frames",
    "history_interval",
    "max_tokens",
    "temperature",
    "top_p",
)
USED = (*OPTIONS, *_OTHERS)
"""The node's parameters that mean something in a replay. The others are about images that come in while the
networks are busy, about topics, and about building engines."""
_NODE = "pixelrefer"
_VALUES = "ros__parameters"


def add_parameter_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that `read_parameters` reads.

    Args:
        parser: of a verb.
    """
    parser.add_argument(
        "--model", metavar="M", help="folder, hub id or shipped model; `tiny-random`: small and untrained"
    )
    parser.add_argument("--tracker-model", metavar="M", help="as --model, for SAM 2; `none`: no tracking")
    for name in ("device", "precision", "backend"):
        parameter = find_parameter(name)
        parser.add_argument(f"--{name}", choices=parameter.choices or None, help=parameter.description)
    parser.add_argument(
        "-p",
        "--param",
        action="append",
        default=[],
        metavar="NAME:=VALUE",
        help="another parameter of the node, as often as needed; one of " + ", ".join(_OTHERS),
    )
    parser.add_argument(
        "--params-file",
        type=Path,
        metavar="FILE",
        help="the parameters a robot's node is started with (YAML); the options go before it",
    )


def read_parameters(args: argparse.Namespace, say: Callable[[str], None]) -> Parameters:
    """The parameters a command line gives.

    Args:
        args: as `add_parameter_arguments` declares them.
        say: told, in a line, what of the file is passed over.

    Returns:
        Checked values: of the options, else of ``-p``, else of the file, else the defaults.

    Raises:
        InputFileError: the file cannot be read, or gives this node nothing.
        ParameterError: no model is named, a name is unknown or means nothing here, or a value is refused.
    """
    values: dict[str, object] = {}
    if args.params_file is not None:
        values.update(_of_file(args.params_file, say))
    values.update(_of_assignment(text) for text in args.param)
    values.update({name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None})
    for name in ("model", "tracker_model"):
        if not values.get(name):
            extra = ", or `none` for no tracking" if name == "tracker_model" else ""
            raise ParameterError(
                f"no --{name.replace('_', '-')} is given; pass a folder, a hub id, `tiny-random` for an "
                f"untrained one{extra}"
            )
    return check_parameters(values)


def _of_assignment(text: str) -> tuple[str, object]:
    name, assigned, value = text.partition(":=")
    if not assigned:
        raise ParameterError(f"-p {text} is no assignment; give NAME:=VALUE")
    if find_parameter(name).name not in USED:
        raise ParameterError(f"-p {text}: {name} means nothing in a replay; leave it out")
    if find_parameter(name).type is str:
        return name, value  # a folder named 7 is no number
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ParameterError(f"-p {text}: {value!r} is no YAML value") from error


def _of_file(path: Path, say: Callable[[str], None]) -> dict[str, Value]:
    """What a ROS parameters file gives the node, checked so that a refusal names the file."""
    found: dict[str, object] = {}
    content = parse_file(path)
    sections = list(_sections(content, "")) if isinstance(content, Mapping) else []
    named = [node for node, _ in sections]
    ours = [node for node in named if node.rsplit("/", 1)[-1] == _NODE]
    if len(ours) > 1:
        raise InputFileError(
            f"{path} has values for {', '.join(ours)}; leave those of one, the robot's to replay"
        )
    for node, values in sections:  # in the order of the file, as for a node: the later value counts
        if node in ours or node.rsplit("/", 1)[-1] in ("*", "**"):
            found.update(values)
    if not found:
        raise InputFileError(
            f"{path} gives the node {_NODE} no parameters: found {reprlib.repr(named or content)}; "
            f"give a ROS parameters file: /**: {{{_VALUES}: {{NAME: VALUE}}}}"
        )
    known = {name: value for name, value in found.items() if name in BY_NAME}
    if len(known) < len(found):
        names = ", ".join(str(name) for name in found if name not in known)
        say(f"{path}: {names}: perception has no such parameter; passed over, as a node does")
    try:
        return {name: find_parameter(name).check(value) for name, value in known.items() if name in USED}
    except ParameterError as error:
        raise ParameterError(f"{path}: {error}") from error


def _sections(content: Mapping[Any, Any], node: str) -> list[tuple[str, dict[str, object]]]:
    """The nodes named in a parameters file, and their values; namespaces may be keys of their own."""
    found = []
    for key, below in content.items():
        if not isinstance(below, Mapping):
            continue
        if key == _VALUES:
            found.append((node, dict(below)))
        else:
            found.extend(_sections(below, f"{node}/{str(key).strip('/')}"))
    return found
