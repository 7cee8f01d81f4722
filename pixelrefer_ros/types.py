# SPDX-License-Identifier: Apache-2.0
"""The values that flow through the package: frozen, typed, without behaviour.

Conventions: images are (height, width, 3) uint8 RGB; masks are (height, width) bool at the size of
the frame they belong to; pixel coordinates are (x, y) = (column, row) from the top-left corner;
stamps are integer nanoseconds of the clock that stamped the image (``header.stamp``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

RgbImage = NDArray[np.uint8]
"""(height, width, 3) uint8, RGB."""
Mask = NDArray[np.bool_]
"""(height, width) bool, True on the object."""
NANOSECONDS = 1_000_000_000
"""In a second."""
REGION_TAG = "<region>"
"""Where the text of a question speaks of an object."""
MAX_POINTS = 64
"""Of one region: the bound of ``Region.points`` in the message."""
MAX_OBJECTS_PER_QUESTION = 16
"""The bound of ``Question.object_ids`` in the message."""


class TrackState(IntEnum):
    """What the tracker knows of an object; the values of ``pixelrefer_ros/msg/Object``."""

    TRACKED = 1
    """Seen in this frame."""
    OCCLUDED = 2
    """Not seen in this frame, but seen a short while ago: its last mask is out of date."""
    LOST = 3
    """Not seen for so long that only a new region can be trusted to bring it back."""


class AnswerStatus(IntEnum):
    """How a question ended; the values of ``pixelrefer_ros/msg/Answer``."""

    OK = 0
    TRUNCATED = 1
    CANCELLED = 2
    NO_SUCH_OBJECT = 3
    OBJECT_LOST = 4
    EMPTY_REGION = 5
    BAD_QUESTION = 6
    NO_FRAME = 7
    OVERLOADED = 8
    INTERNAL_ERROR = 9


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One picture of the camera.

    Attributes:
        rgb: (height, width, 3) uint8 RGB; never written to after construction.
        stamp_ns: when it was taken, ns.
        frame_id: the optical frame it was taken in (REP 103).
    """

    rgb: RgbImage
    stamp_ns: int
    frame_id: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned box in pixels: columns [x, x + width), rows [y, y + height)."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, eq=False, slots=True)
class Region:
    """What a user points at: exactly one of box, points or mask.

    Attributes:
        box: a box around the object.
        points: (P, 2) float32 pixel coordinates (x, y).
        point_labels: (P,) int32, 1 on the object, 0 off it.
        mask: (H, W) bool at the frame's size.
        object_id: 0 starts a new object; otherwise the object to correct.
        label: a name the user gave it; not interpreted.
        stamp_ns: the frame the region was drawn on; 0 means the newest.
    """

    box: Box | None = None
    points: NDArray[np.float32] | None = None
    point_labels: NDArray[np.int32] | None = None
    mask: Mask | None = None
    object_id: int = 0
    label: str = ""
    stamp_ns: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class Track:
    """One object in one frame, as the tracker sees it.

    Attributes:
        object_id: positive; never reused while the tracker lives.
        state: TRACKED, OCCLUDED or LOST.
        score: probability in [0, 1] that the object is visible in this frame.
        mask: (H, W) bool at the frame's size; all False unless TRACKED.
        box: tight box around the mask; None when the mask is empty.
        area_px: mask pixels.
    """

    object_id: int
    state: TrackState
    score: float
    mask: Mask
    box: Box | None
    area_px: int


@dataclass(frozen=True, slots=True)
class Description:
    """The newest answer that describes an object.

    Attributes:
        text: the answer.
        stamp_ns: the newest frame it looked at.
        confidence: geometric mean of the chosen tokens' probabilities, in [0, 1].
    """

    text: str
    stamp_ns: int
    confidence: float


@dataclass(frozen=True, eq=False, slots=True)
class TrackedObject:
    """An object with what perception remembers of it.

    Attributes:
        track: where it is in this frame.
        label: the name the user gave it.
        first_seen_ns, last_seen_ns: first and newest frame in which it was TRACKED.
        description: the newest description, if one was made.
    """

    track: Track
    label: str
    first_seen_ns: int
    last_seen_ns: int
    description: Description | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Scene:
    """Everything known of one frame: what ``~/objects`` carries."""

    frame: Frame
    objects: tuple[TrackedObject, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A question about one or several objects.

    Attributes:
        text: with one ``<region>`` per object, in order; with none, the objects are put before it.
        object_ids: the objects asked about.
        id: the asker's name for it, returned with the answer.
        frames: how many frames to look at (1: the newest).
        history_s: seconds over which those frames are spread.
        max_tokens: at most so many tokens in the answer; 0 means the configured default.
    """

    text: str
    object_ids: tuple[int, ...]
    id: str = ""
    frames: int = 1
    history_s: float = 0.0
    max_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """How a question was answered.

    Attributes:
        question: what was asked.
        status: OK, or why not.
        text: the answer so far; partial when TRUNCATED or CANCELLED.
        confidence: geometric mean of the chosen tokens' probabilities, in [0, 1]; 0 without tokens.
        stamp_ns, frame_id: of the newest frame looked at; 0 and "" if none was.
        frame_stamps_ns: the frames looked at, oldest first.
        tokens: tokens chosen.
        time_to_first_token_s, total_time_s: seconds of the machine's steady clock since the
            question was accepted.
        model: name and content hash of the model.
        error: what to do about it; empty when OK.
    """

    question: Question
    status: AnswerStatus
    text: str = ""
    confidence: float = 0.0
    stamp_ns: int = 0
    frame_id: str = ""
    frame_stamps_ns: tuple[int, ...] = field(default=())
    tokens: int = 0
    time_to_first_token_s: float = 0.0
    total_time_s: float = 0.0
    model: str = ""
    error: str = ""
