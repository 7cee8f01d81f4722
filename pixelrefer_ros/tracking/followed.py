# SPDX-License-Identifier: Apache-2.0
"""What the stream keeps of one object besides its memory slots."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from pixelrefer_ros.tracking.frame_order import FrameKey
from pixelrefer_ros.tracking.prompts import PointPrompt
from pixelrefer_ros.tracking.states import Visibility
from pixelrefer_ros.types import Box, Frame, Mask, Track, TrackState

POINTER_FRAMES = 15
"""Frame numbers kept per object: as many as SAM 2 has unprompted pointers."""


@dataclass(eq=False, slots=True)
class Followed:
    """One object of the stream.

    Attributes:
        object_id: positive.
        prompt_key: the frame of its prompt.
        prompt_frame: that frame, where without a stamp only the array tells it from others: another one could
            lie at its address once it is freed; else None.
        prompt_place: the prompt frame's number in the `FrameOrder`.
        first_distance: frames between the prompt and the first frame after it; 0 until there was one.
        remembered: numbers in the `FrameOrder` of the frames remembered since the prompt, newest last.
        points: the points given on the prompt frame, to which a refinement there adds.
        prompt_logits: (4h, 4w) mask logits there, which it refines.
        key: the newest frame the object has a result for.
        logits: (4h, 4w) mask logits there.
        pointer: (C,), the newest from a frame in which it was not mistaken for another object.
        overlaps: ids of objects that it may overlap, see `pixelrefer_ros.tracking.overlaps`.
        undecided: ids of objects of which that is not known yet.
        visibility: counts towards OCCLUDED and LOST.
        track: the result there.
    """

    object_id: int
    prompt_key: FrameKey
    prompt_frame: Frame | None
    prompt_place: int
    points: PointPrompt | None
    key: FrameKey
    logits: Tensor
    pointer: Tensor
    visibility: Visibility
    prompt_logits: Tensor = field(init=False)
    track: Track = field(init=False)
    first_distance: int = 0
    overlaps: set[int] = field(default_factory=set)
    undecided: set[int] = field(default_factory=set)
    remembered: deque[int] = field(default_factory=lambda: deque(maxlen=POINTER_FRAMES))

    def __post_init__(self) -> None:
        """Its newest frame is that of its prompt."""
        self.prompt_logits = self.logits

    def report(self, score: float, mask: Mask, box: Box | None, area_px: int) -> None:
        """Set the track of the newest frame; a mask is shown only while the object is TRACKED."""
        state = self.visibility.state
        if state != TrackState.TRACKED:
            mask, box, area_px = np.zeros_like(mask), None, 0
        self.track = Track(self.object_id, state, score, mask, box, area_px)

    def remembered_from(self, number: int) -> int:
        """How many of the newest remembered frames have this number or a later one."""
        return sum(one >= number for one in self.remembered)


def joined(old: PointPrompt | None, new: PointPrompt, limit: int) -> PointPrompt:
    """Return the newest ``limit`` points of both prompts, a box's corners always among them."""
    if old is None:
        return new
    points, labels = np.concatenate((old.points, new.points)), np.concatenate((old.labels, new.labels))
    if len(points) > limit:
        kept = 2 if old.is_box else 0
        index = np.r_[:kept, len(points) - limit + kept : len(points)]
        points, labels = points[index], labels[index]
    return PointPrompt(points, labels)
