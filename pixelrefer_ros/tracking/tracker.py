# SPDX-License-Identifier: Apache-2.0
"""What perception asks of a tracker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pixelrefer_ros.runtime import BackendInUse
from pixelrefer_ros.types import Frame, Region, Track


class Tracker(Protocol):
    """Follows objects through a stream of frames. Not thread-safe: one worker drives it."""

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The objects followed now, oldest first."""
        ...

    @property
    def in_use(self) -> BackendInUse | None:
        """What computes its model; None where it has none."""
        ...

    def prompt(self, frame: Frame, regions: Sequence[Region]) -> list[Track]:
        """Start or correct objects; nothing changes when one of the regions is refused.

        Args:
            frame: the frame the regions were drawn on; it may be older than the newest tracked one.
            regions: each with a positive ``object_id``: an unknown id starts an object, a known
                one corrects it.

        Returns:
            One track per region, in order, at ``frame``.

        Raises:
            EmptyRegion: a region covers no pixel of the frame, or is not one box, points or mask.
            NoSuchObject: an object id that is not positive.
            Overloaded: more objects than the tracker's bound.
            ImageError: the frame is no RGB picture.
        """
        ...

    def track(self, frame: Frame) -> list[Track]:
        """Follow every object to ``frame``.

        Returns:
            One track per object, in the order of ``object_ids``; objects prompted on this very
            frame give their prompt's result.

        Raises:
            ImageError: the frame is no RGB picture.
        """
        ...

    def remove(self, object_id: int) -> None:
        """Forget one object.

        Raises:
            NoSuchObject: the id is not followed.
        """
        ...

    def clear(self) -> None:
        """Forget every object."""
        ...
