# SPDX-License-Identifier: Apache-2.0
"""``pixelrefer replay``: perception over a recording, with no ROS, the same result every time."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from pixelrefer_ros.errors import InputFileError
from pixelrefer_ros.offline.bags import ImageBag
from pixelrefer_ros.offline.files import QuestionEntry, RegionEntry, read_questions, read_regions
from pixelrefer_ros.offline.records import line
from pixelrefer_ros.offline.settings import add_parameter_arguments, read_parameters
from pixelrefer_ros.parameters import Parameters
from pixelrefer_ros.types import NANOSECONDS, Frame, Scene


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments.

    Args:
        parser: of this verb.
    """
    parser.description = (
        "Track the regions of a file through a recorded camera topic and ask the questions of another file. "
        "Exit status: 0 every answer OK, 1 a question or region not OK or a recording that breaks off, "
        "2 bad input."
    )
    parser.add_argument("bag", type=Path, help="a rosbag2 folder, or a .mcap or .db3 file")
    parser.add_argument("--image-topic", required=True, metavar="TOPIC", help="raw or compressed images")
    parser.add_argument(
        "--regions", required=True, type=Path, metavar="FILE", help="what to track: YAML or JSON"
    )
    parser.add_argument(
        "--questions", required=True, type=Path, metavar="FILE", help="what to ask: YAML or JSON"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="answers, one JSON object a line"
    )
    parser.add_argument("--overlay", type=Path, metavar="FILE", help="also draw a video: .mp4 or .gif")
    add_parameter_arguments(parser)
    parser.add_argument("--max-frames", type=_positive, metavar="N", help="stop after N frames")
    parser.add_argument(
        "--no-timing", action="store_true", help="leave durations out: byte for byte repeatable"
    )


def run(args: argparse.Namespace) -> int:
    """Replay a recording.

    Args:
        args: as `add_arguments` declares them.

    Returns:
        0 if every region was taken, every answer is OK, and the recording was read to its end; else 1.

    Raises:
        PixelReferError: an input cannot be used; nothing, or only the lines so far, has been written.
    """
    parameters = read_parameters(args, _say)
    regions = read_regions(args.regions)
    questions = read_questions(args.questions, regions)
    with ExitStack() as stack:
        bag = stack.enter_context(ImageBag(args.bag, args.image_topic))
        show = _overlay(args.overlay, stack)
        return _replay(args, parameters, regions, questions, bag, show, stack)


def _replay(
    args: argparse.Namespace,
    parameters: Parameters,
    regions: list[RegionEntry],
    questions: list[QuestionEntry],
    bag: ImageBag,
    show: Callable[[Scene], None] | None,
    stack: ExitStack,
) -> int:
    # Imported only here: these load torch, and every mistake in the input is found without it.
    from pixelrefer_ros.model_source import backends_in_words, load_perception
    from pixelrefer_ros.offline.run import ReplayRun
    from pixelrefer_ros.offline.stream import in_order, until_break

    perception = load_perception(parameters)
    out = stack.enter_context(_open_out(args.out))
    _say(backends_in_words(perception))
    skipped: list[int] = []

    def write(record: dict[str, Any]) -> None:
        out.write(line(record))
        out.flush()
        _say(_in_words(record))

    def skip(index: int, reason: str) -> None:
        skipped.append(index)
        _say(f"image {index} is skipped: {reason}")

    def set_back(index: int, seconds: float) -> None:
        _say(
            f"image {index} is {seconds:g} s earlier than the one before: the clock was set back; what came "
            "before is not looked back at, and times count on from there"
        )

    breaks: list[InputFileError] = []
    replay = ReplayRun(
        perception, regions, questions, on_record=write, on_scene=show, timing=not args.no_timing
    )
    readable = until_break(bag.frames(skip), breaks.append)
    frames = islice(in_order(readable, skip, set_back), args.max_frames)
    outcome = replay.run(_with_progress(frames, min(bag.count, args.max_frames or bag.count)))
    counts = ", ".join(f"{count} {status.name}" for status, count in sorted(outcome.answers.items()))
    print(f"{args.out}: {counts or 'no question'}; {perception.model}")
    print(
        f"{outcome.frames} frames, {len(skipped)} images skipped, {outcome.refused_regions} regions refused"
    )
    if args.overlay is not None and outcome.frames:
        print(args.overlay)
    for error in breaks:
        _say(f"the recording breaks off after {outcome.frames} frames: {error}")
    return 0 if outcome.all_ok and not breaks else 1


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def _open_out(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputFileError(
            f"--out {path} cannot be written ({error.strerror}); choose another place"
        ) from error


def _overlay(path: Path | None, stack: ExitStack) -> Callable[[Scene], None] | None:
    """What draws each scene into the video; None if none is wanted."""
    if path is None:
        return None
    from pixelrefer_ros.offline.video import VideoWriter
    from pixelrefer_ros.overlay import draw_overlay

    video = stack.enter_context(VideoWriter(path))
    newest: list[Scene] = []

    def show(scene: Scene) -> None:
        newest[:] = [scene]
        video.write(draw_overlay(scene), scene.frame.stamp_ns)

    def hold() -> None:
        """Let the last picture, which carries the last answers, stay for two seconds."""
        for scene in newest:
            video.write(draw_overlay(scene), scene.frame.stamp_ns + 2 * NANOSECONDS)

    stack.callback(hold)
    return show


def _with_progress(frames: Iterator[tuple[int, Frame]], total: int) -> Iterator[tuple[int, Frame]]:
    """Show a bar where a person is looking."""
    if not sys.stderr.isatty():
        return frames
    from tqdm import tqdm

    return iter(tqdm(frames, total=total, unit="frame", file=sys.stderr))


def _say(text: str) -> None:
    """Write a line for people, above the bar if there is one."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr)


def _in_words(record: dict[str, Any]) -> str:
    at = "-" if record["frame"] is None else record["frame"]
    if record["kind"] == "region":
        return (
            f"frame {at}: region {record['region']} ({record['name']}): {record['status']}: {record['error']}"
        )
    names = ", ".join(thing["name"] for thing in record["objects"])
    said = f"{record['text']!r} ({record['confidence']:.2f})" if record["text"] else record["error"]
    return f"frame {at}: {record['question_id']} about {names}: {record['status']}: {said}"
