# SPDX-License-Identifier: Apache-2.0
"""Tracking switched off: objects stay where they were drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pixelrefer_ros.errors import EmptyRegion, NoSuchObject, Overloaded, ParameterError
from pixelrefer_ros.tracking.masks import mask_box
from pixelrefer_ros.tracking.prompts import MaskPrompt, check_frame, to_prompt
from pixelrefer_ros.types import Box, Frame, Mask, Region, Track, TrackState


@dataclass(frozen=True, eq=False, slots=True)
class _Drawn:
    mask: Mask
    box: Box | None
    area_px: int


class StaticTracker:
    """A tracker without a model, for cameras that stand still and for measuring everything else.

    A box is its filled rectangle, a mask is itself; points are refused, since only a model knows what
    they belong to. An object is OCCLUDED in frames of another size than its region's: there is no
    telling where it is.
    """

    def __init__(self, *, max_objects: int = 16) -> None:
        """Start with no object.

        Raises:
            ParameterError: ``max_objects`` is below 1.
        """
        if max_objects < 1:
            raise ParameterError(f"max_objects is {max_objects}: give 1 or more")
        self.in_use = None  # no model
        self._max_objects = max_objects
        self._drawn: dict[int, _Drawn] = {}

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The objects, oldest first."""
        return tuple(self._drawn)

    def prompt(self, frame: Frame, regions: Sequence[Region]) -> list[Track]:
        """Start or move objects; see `Tracker.prompt`."""
        height, width = check_frame(frame.rgb)
        asked = {region.object_id: _drawn(region, height, width) for region in regions}
        if len({*self._drawn, *asked}) > self._max_objects:
            raise Overloaded(
                f"{len({*self._drawn, *asked})} objects, the bound is {self._max_objects}: remove an object "
                "first, or raise max_objects"
            )
        self._drawn.update(asked)
        return [_track(region.object_id, self._drawn[region.object_id], height, width) for region in regions]

    def track(self, frame: Frame) -> list[Track]:
        """Give every object where it was drawn; see `Tracker.track`."""
        height, width = check_frame(frame.rgb)
        return [_track(object_id, drawn, height, width) for object_id, drawn in self._drawn.items()]

    def remove(self, object_id: int) -> None:
        """Forget one object.

        Raises:
            NoSuchObject: the id is not followed.
        """
        if self._drawn.pop(object_id, None) is None:
            raise NoSuchObject(f"object {object_id} is not followed: the tracker has {list(self.object_ids)}")

    def clear(self) -> None:
        """Forget every object."""
        self._drawn.clear()


def _drawn(region: Region, height: int, width: int) -> _Drawn:
    prompt = to_prompt(region, height, width)
    if isinstance(prompt, MaskPrompt):
        mask = prompt.mask.copy()
    elif prompt.is_box:
        (x0, y0), (x1, y1) = prompt.points.astype(int)
        mask = np.zeros((height, width), np.bool_)
        mask[y0:y1, x0:x1] = True
    else:
        raise EmptyRegion(
            f"object {region.object_id}: points need a tracker with a model: give a box or a mask"
        )
    mask.setflags(write=False)  # every track shares it
    return _Drawn(mask, mask_box(mask), int(np.count_nonzero(mask)))


def _track(object_id: int, drawn: _Drawn, height: int, width: int) -> Track:
    if drawn.mask.shape != (height, width):
        return Track(object_id, TrackState.OCCLUDED, 0.0, np.zeros((height, width), np.bool_), None, 0)
    return Track(object_id, TrackState.TRACKED, 1.0, drawn.mask, drawn.box, drawn.area_px)
