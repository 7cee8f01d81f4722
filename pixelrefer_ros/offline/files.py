# SPDX-License-Identifier: Apache-2.0
"""The two files a replay is driven by: regions to track, and questions to ask.

Regions:

    - {id: cup, at: 0.5, box: [210, 120, 80, 90]}
    - {id: spoon, frame: 12, points: [[300, 200, 1], [250, 210, 0]]}
    - {id: cup, frame: 40, mask: cup.png}                 # corrects the cup

Questions:

    - {text: "What is <region>?", objects: [cup], at: 1.0}
    - {text: "Is <region> on <region>?", objects: [spoon, cup], frames: 4, history_s: 2}
    - {text: "What happens to <region>?", objects: [cup], every_s: 5}

When an entry is due is said by one of ``at`` (seconds after the first frame), ``frame`` (index on the topic,
from 0) and ``stamp_ns`` (the clock of the images); it is taken at the first frame at or after that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pixelrefer_ros.images import MAX_PIXELS
from pixelrefer_ros.offline.fields import Entry, is_number, is_whole, read_entries
from pixelrefer_ros.types import NANOSECONDS, Box, Region

_WHEN = ("at", "frame", "stamp_ns")
_SHAPES = ("box", "points", "mask")
_REGION_FIELDS = ("id", "label", *_WHEN, *_SHAPES)
_QUESTION_FIELDS = ("id", "text", "objects", *_WHEN, "every_s", "frames", "history_s", "max_tokens")


@dataclass(frozen=True, slots=True)
class When:
    """A moment of a recording: exactly one of these is given.

    Attributes:
        after_ns: since the first frame's stamp.
        frame: index of an image on the topic.
        stamp_ns: of the images' clock.
    """

    after_ns: int | None = None
    frame: int | None = None
    stamp_ns: int | None = None

    def reached(self, index: int, stamp_ns: int, first_stamp_ns: int) -> bool:
        """Whether a frame is at or after this moment.

        Args:
            index: the frame's index on the topic.
            stamp_ns: its stamp.
            first_stamp_ns: the first frame's stamp.
        """
        if self.frame is not None:
            return index >= self.frame
        due_ns = self.stamp_ns if self.stamp_ns is not None else first_stamp_ns + (self.after_ns or 0)
        return stamp_ns >= due_ns

    def __str__(self) -> str:
        """As a person would say it."""
        if self.frame is not None:
            return f"frame {self.frame}"
        if self.stamp_ns is not None:
            return f"stamp {self.stamp_ns} ns"
        return f"{(self.after_ns or 0) / NANOSECONDS:g} s after the first frame"


@dataclass(frozen=True, eq=False, slots=True)
class RegionEntry:
    """A region of the file.

    Attributes:
        number: its place in the file, from 1.
        name: its object's name in these files; an entry with a name used before corrects that object.
        when: the frame it was drawn on.
        region: what it points at; ``object_id`` is left 0.
    """

    number: int
    name: str
    when: When
    region: Region


@dataclass(frozen=True, slots=True)
class QuestionEntry:
    """A question of the file.

    Attributes:
        number: its place in the file, from 1.
        id, text, frames, history_s, max_tokens: as in `~pixelrefer_ros.types.Question`.
        objects: names of the objects asked about, as the regions file has them.
        when: when to ask; None is after the last frame.
        every_ns: ask again whenever this has passed; 0: once.
    """

    number: int
    id: str
    text: str
    objects: tuple[str, ...]
    when: When | None = None
    every_ns: int = 0
    frames: int = 1
    history_s: float = 0.0
    max_tokens: int = 0


def read_regions(path: Path | str) -> list[RegionEntry]:
    """Read a regions file.

    Fields of an entry: ``id`` (the object's name in these files; default: the entry's number), ``label``
    (default: ``id`` if given), one of ``at``, ``frame``, ``stamp_ns`` (default: the first frame), and one of
    ``box`` ([x, y, width, height], whole pixels), ``points`` (a list of [x, y, label], label 1 on the object,
    0 off it) and ``mask`` (a PNG of the frame's size beside this file; not black is the object).

    Args:
        path: the file, JSON if its name ends in ``.json``, else YAML.

    Returns:
        The regions, in the file's order.

    Raises:
        InputFileError: naming file, entry, field, value and remedy.
    """
    entries = read_entries(path, "regions", "region")
    regions = [_region(entry) for entry in entries]
    ids = {region.name for entry, region in zip(entries, regions, strict=True) if "id" in entry}
    for entry in entries:
        if "id" not in entry and str(entry.number) in ids:
            entry.wrong("id", f"another region has the id '{entry.number}': give this one an id of its own")
    return regions


def read_questions(path: Path | str, regions: Sequence[RegionEntry]) -> list[QuestionEntry]:
    """Read a questions file.

    Fields of an entry: ``text``, ``objects`` (names of objects in the regions file, or numbers of entries
    there, counted from 1), one of ``at``, ``frame``, ``stamp_ns`` (default: after the last frame),
    ``every_s`` (ask again and again; from the first frame on, unless a start is given), ``frames``,
    ``history_s``, ``max_tokens`` and ``id`` (default: ``q`` and the entry's number).

    Args:
        path: the file, JSON if its name ends in ``.json``, else YAML.
        regions: of the regions file, which the objects are looked up in.

    Returns:
        The questions, in the file's order.

    Raises:
        InputFileError: naming file, entry, field, value and remedy.
    """
    return [_question(entry, regions) for entry in read_entries(path, "questions", "question")]


def _when(entry: Entry) -> When | None:
    field = entry.one_of(_WHEN)
    if field == "at":
        return When(after_ns=round(entry.seconds("at") * NANOSECONDS))
    if field == "frame":
        return When(frame=entry.whole("frame"))
    if field == "stamp_ns":
        return When(stamp_ns=entry.whole("stamp_ns"))
    return None


def _region(entry: Entry) -> RegionEntry:
    entry.only(_REGION_FIELDS)
    name = entry.text("id") if "id" in entry else str(entry.number)
    label = entry.text("label", default=name if "id" in entry else "")
    shape = entry.one_of(_SHAPES)
    if shape == "box":
        region = Region(box=_box(entry), label=label)
    elif shape == "points":
        points, labels = _points(entry)
        region = Region(points=points, point_labels=labels, label=label)
    elif shape == "mask":
        region = Region(mask=_mask(entry), label=label)
    else:
        entry.wrong("box", f"give one of {', '.join(_SHAPES)}")
    return RegionEntry(entry.number, name, _when(entry) or When(frame=0), region)


def _box(entry: Entry) -> Box:
    values = entry.sequence("box")
    if len(values) != 4 or not all(is_whole(v) and abs(v) < 2**31 for v in values) or min(values[2:]) < 0:
        entry.wrong("box", "give [x, y, width, height] in whole pixels")
    return Box(*values)


def _points(entry: Entry) -> tuple[np.ndarray, np.ndarray]:
    values = entry.sequence("points")
    for point in values:
        sound = isinstance(point, list) and len(point) == 3 and all(is_number(value) for value in point)
        if not sound or point[2] not in (0, 1):
            entry.wrong("points", "give [x, y, label] for each, label 1 on the object or 0 off it")
    table = np.array(values, np.float64)
    return table[:, :2].astype(np.float32), table[:, 2].astype(np.int32)


def _mask(entry: Entry) -> np.ndarray:
    path = entry.path.parent / entry.text("mask")
    try:
        raw = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        entry.wrong("mask", f"the file cannot be read ({error.strerror}); give a PNG beside this file")
    # IHDR is PNG's first chunk; looked at before decoding, so that a small file cannot fill the memory.
    width, height = (int.from_bytes(raw[at : at + 4].tobytes(), "big") for at in (16, 20))
    if raw[:8].tobytes() != b"\x89PNG\r\n\x1a\n" or not 0 < width * height <= MAX_PIXELS:
        entry.wrong("mask", f"the file is no PNG of 1 to {MAX_PIXELS} pixels")
    decoded = cv2.imdecode(raw, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    if decoded is None:
        entry.wrong("mask", "the PNG is broken; write it again")
    return np.asarray(decoded) != 0


def _question(entry: Entry, regions: Sequence[RegionEntry]) -> QuestionEntry:
    entry.only(_QUESTION_FIELDS)
    every_ns = round(entry.seconds("every_s", above=0) * NANOSECONDS) if "every_s" in entry else 0
    return QuestionEntry(
        number=entry.number,
        id=entry.text("id", default=f"q{entry.number}"),
        text=entry.text("text"),
        objects=tuple(_object(entry, wanted, regions) for wanted in entry.sequence("objects")),
        when=_when(entry) or (When(frame=0) if every_ns else None),
        every_ns=every_ns,
        frames=entry.whole("frames", default=1, least=1),
        history_s=entry.seconds("history_s", default=0.0),
        max_tokens=entry.whole("max_tokens", default=0),
    )


def _object(entry: Entry, wanted: object, regions: Sequence[RegionEntry]) -> str:
    names = [region.name for region in regions]
    if isinstance(wanted, str) and wanted in names:
        return wanted
    # An entry without an id is named by its number, so that 3 and "3" are the same object.
    if is_whole(wanted) and isinstance(wanted, int) and 1 <= wanted <= len(names):
        return names[wanted - 1]
    known = ", ".join(dict.fromkeys(names)) or "none"
    entry.wrong("objects", f"{wanted!r:.60} is no object of the regions file; its objects: {known:.500}")
