# SPDX-License-Identifier: Apache-2.0
"""Conversations about objects in the authors' published JSON layout: read and checked.

A file is a list of records: ``image`` or ``video``, ``conversations`` whose questions hold ``<region>``, and
``masks`` (older files: ``annotation``), one per ``<region>`` in the order of reading. A mask of an image is a
segmentation; of a video, segmentations by frame number. As in their loader, a path may be a list of one, and
what comes before the first question is left out, as are frames whose mask is empty.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pixelrefer_ros.errors import ImageError, InputFileError
from pixelrefer_ros.training.coco_masks import is_empty
from pixelrefer_ros.types import REGION_TAG

MAX_VIEWS = 8
"""Frames of one object that a question looks at, at most: evenly chosen among those that have a mask."""

_MEDIA_TAGS = ("<image>\n", "<video>\n", "<image>", "<video>")
_SHOWN = 3


@dataclass(frozen=True, eq=False, slots=True)
class RecordTurn:
    """A question of a record.

    Attributes:
        number: of the record in its file.
        media: the picture, the video, or a folder of frames.
        video: whether frame numbers mean anything.
        question: with one ``<region>`` per object.
        answer: as written.
        regions: per ``<region>`` the number of its object in the record, and frame number to segmentation.
        size: (height, width) that the record gives, which masks and pictures have to have, px; None where it
            gives none.
        rate_hz: frames per second that the record gives; None where it gives none.
    """

    number: int
    media: Path
    video: bool
    question: str
    answer: str
    regions: tuple[tuple[int, dict[int, Any]], ...]
    size: tuple[int, int] | None
    rate_hz: float | None


class _Broken(Exception):
    """Why a record, or a turn of it, is left out: a short reason that is counted, and what was seen."""

    def __init__(self, reason: str, seen: str = "") -> None:
        super().__init__(reason)
        self.reason, self.seen = reason, seen


@dataclass(slots=True)
class Skipped:
    """What was left out, by reason.

    Attributes:
        counts: how often.
        examples: the first few of each reason.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, example: str) -> None:
        """Counts one more."""
        self.counts[reason] += 1
        kept = self.examples.setdefault(reason, [])
        if len(kept) < _SHOWN:
            kept.append(example)

    def lines(self) -> list[str]:
        """For people: every reason with its count and its first examples."""
        return [
            f"{count} x {reason}: {'; '.join(self.examples[reason])}{' ...' if count > _SHOWN else ''}"
            for reason, count in self.counts.most_common()
        ]


def read_records(file: Path, media: Path, *, most_broken: float) -> tuple[list[RecordTurn], Skipped]:
    """Reads a file of records, checking all but the pixels.

    Args:
        file: JSON, a list of records; or one record per line (``.jsonl``).
        media: the folder that paths in the records start from.
        most_broken: share of records that may be left out.

    Returns:
        The questions that can be asked, and what was left out.

    Raises:
        InputFileError: the file cannot be read, too much of it is broken, or nothing is left.
    """
    turns: list[RecordTurn] = []
    skipped = Skipped()
    records = _load(file)
    broken = 0
    for number, record in enumerate(records):
        try:
            turns += _turns(number, record, media, skipped)
        except _Broken as error:
            broken += 1
            skipped.add(error.reason, f"record {number}{': ' if error.seen else ''}{error.seen}")
    if broken > most_broken * len(records) or not turns:
        raise InputFileError(
            f"{file}: {broken} of {len(records)} records are broken, and {len(turns)} questions are left; at "
            f"most {most_broken:.0%} may be broken: correct the file, or allow more with --max-broken\n"
            + "\n".join(skipped.lines())
        )
    return turns, skipped


def _load(file: Path) -> list[Any]:
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".jsonl":
            lines = enumerate(text.split("\n"), 1)  # not splitlines: a text may hold U+2028 as it is
            return [_line(file, number, line) for number, line in lines if line.strip()]
        records = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise InputFileError(f"{file} cannot be read as JSON ({error})") from error
    if not isinstance(records, list):
        raise InputFileError(f"{file} holds a JSON {type(records).__name__}: it must be a list of records")
    return records


def _line(file: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputFileError(f"{file}, line {number} cannot be read as JSON ({error})") from error


def _turns(number: int, record: Any, media: Path, skipped: Skipped) -> list[RecordTurn]:
    if not isinstance(record, dict):
        raise _Broken("not an object", f"{record!r:.40}")
    path, video = _media(record, media)
    pairs, before = _pairs(record.get("conversations"))
    size, rate = _size(record), record.get("fps")
    objects = _objects(record, video, size)
    wanted = sum(question.count(REGION_TAG) for question, _ in pairs)
    if wanted not in (0, len(objects)) or not objects:
        raise _Broken(f"another number of {REGION_TAG} than of masks", f"{wanted} and {len(objects)}")
    if rate is not None and not (_number(rate) and 0 < rate <= 1000):
        raise _Broken("fps is no rate", repr(rate)[:40])
    if before:
        skipped.add("what comes before the first question", f"record {number}, turns up to {before - 1}")
    turns: list[RecordTurn] = []
    used = 0
    for place, (question, answer) in enumerate(pairs):
        # Without any tag the objects are named before the first question, as the released prompts do.
        count = question.count(REGION_TAG) if wanted else len(objects) * (place == 0)
        if not count:
            skipped.add(f"a turn without {REGION_TAG}", f"record {number}, turn {place}")
            continue
        regions = tuple((own, objects[own]) for own in range(used, used + count))
        used += count
        turns.append(RecordTurn(number, path, video, question, answer, regions, size, rate))
    return turns


def _media(record: dict[str, Any], folder: Path) -> tuple[Path, bool]:
    named = [key for key in ("image", "video") if record.get(key) is not None]
    if len(named) != 1:
        raise _Broken("neither an image nor a video, or both", str(sorted(record))[:60])
    name = record[named[0]]
    if isinstance(name, list) and len(name) == 1:
        [name] = name
    if not isinstance(name, str) or not name:
        raise _Broken("the media's path is no text", repr(name)[:40])
    path = folder / name
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
        there = path.exists()
    except (OSError, ValueError):
        inside = there = False
    if not there:
        raise _Broken("media that is not there", name[:80])
    if not inside:
        raise _Broken("media outside the media folder", name[:80])
    return path, named[0] == "video"


def _pairs(conversation: Any) -> tuple[list[tuple[str, str]], int]:
    """Questions with their answers, and how many turns come before the first question."""
    if not isinstance(conversation, list):
        raise _Broken("conversations is no list of questions with their answers")
    speakers = [said.get("from") if isinstance(said, dict) else None for said in conversation]
    first = speakers.index("human") if "human" in speakers else 0
    if first == len(conversation) or (len(conversation) - first) % 2:
        raise _Broken("conversations is no list of questions with their answers")
    texts: list[str] = []
    for place, said in enumerate(conversation[first:]):
        text = said.get("value") if isinstance(said, dict) else None
        if speakers[first + place] != ("human", "gpt")[place % 2] or not isinstance(text, str):
            raise _Broken("a turn is not from human and gpt in alternation", f"turn {first + place}")
        for tag in _MEDIA_TAGS:
            text = text.replace(tag, "")
        if not text.strip():
            raise _Broken("an empty question or answer", f"turn {first + place}")
        texts.append(text.strip())
    return list(zip(texts[::2], texts[1::2], strict=True)), first


def _objects(record: dict[str, Any], video: bool, size: tuple[int, int] | None) -> list[dict[int, Any]]:
    masks = record.get("masks", record.get("annotation"))
    if not isinstance(masks, list):
        raise _Broken("masks is no list", type(masks).__name__)
    return [_looked_at(_frames(own, video), size) for own in masks]


def _frames(own: Any, video: bool) -> dict[int, Any]:
    """Frame number to segmentation; an image's is frame 0."""
    if not video and not (isinstance(own, dict) and own and all(key.isdecimal() for key in own)):
        return {0: _segmentation(own)}
    if not isinstance(own, dict) or not own:
        raise _Broken("a video's mask has no frames")
    if not all(key.isdecimal() and len(key) < 10 for key in own):
        raise _Broken("a frame number is no number", str(list(own)[:3])[:60])
    frames = {int(key): _segmentation(value) for key, value in own.items()}
    if not video and len(frames) > 1:
        raise _Broken("several frames of an image")
    return frames


def _looked_at(frames: dict[int, Any], size: tuple[int, int] | None) -> dict[int, Any]:
    """`MAX_VIEWS` of an object's frames at most; where one turns out to be empty, others are chosen."""
    left, seen = sorted(frames), set()
    while left:
        most = min(MAX_VIEWS, len(left))
        spread = [left[round(i * (len(left) - 1) / max(most - 1, 1))] for i in range(most)]
        empty = {number for number in spread if number not in seen and _empty(frames[number], size)}
        if not empty:
            return {number: frames[number] for number in spread}
        seen.update(set(spread) - empty)
        left = [number for number in left if number not in empty]
    raise _Broken("an empty mask")


def _segmentation(value: Any) -> Any:
    return value["segmentation"] if isinstance(value, dict) and "segmentation" in value else value


def _empty(segmentation: Any, size: tuple[int, int] | None) -> bool:
    if size is None and isinstance(segmentation, list) and segmentation:
        return False  # polygons wait for their picture's size
    try:
        return is_empty(segmentation, size)
    except ImageError as error:
        raise _Broken("a mask that cannot be read", str(error)[:120]) from None


def _size(record: dict[str, Any]) -> tuple[int, int] | None:
    height, width = record.get("height"), record.get("width")
    if height is None and width is None:
        return None
    if not all(
        isinstance(side, int) and not isinstance(side, bool) and 0 < side < 1 << 15
        for side in (height, width)
    ):
        raise _Broken("height and width are no size", f"{height!r}, {width!r}"[:60])
    return int(height or 0), int(width or 0)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
