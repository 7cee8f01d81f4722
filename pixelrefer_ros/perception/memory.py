# SPDX-License-Identifier: Apache-2.0
"""The frames an answer may look back at, with each object's mask and tokens in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pixelrefer_ros.errors import NoFrame
from pixelrefer_ros.types import NANOSECONDS, Box, Frame, Mask, Track, TrackState

if TYPE_CHECKING:
    from pixelrefer_ros.model import GlobalFeatures, ObjectTokens

SET_BACK_NS = NANOSECONDS
"""A stamp further than this behind the newest one is of a clock that was set back, or of a bag that starts
over. One that is nearer is of an image that came twice or late, or of a clock that was corrected a little."""

NEAR_NS = NANOSECONDS // 4
"""A region that was drawn on a picture further away than this would show something else in this one."""


@dataclass(eq=False, slots=True)
class RememberedMask:
    """One object in one frame: its mask, one bit per pixel of its box (1080p: at most 260 kB).

    A correction drops it, in every frame, and the tokens computed from it go with it.

    Attributes:
        shape: (height, width) of the frame.
        box: the part of the frame that is kept.
        bits: the packed rows of that part.
        tokens: object tokens of this mask, once a question needed them.
    """

    shape: tuple[int, int]
    box: Box
    bits: NDArray[np.uint8]
    tokens: ObjectTokens | None = None

    @classmethod
    def of(cls, mask: Mask, box: Box) -> RememberedMask:
        """Pack what ``box`` encloses; outside it ``mask`` must be False."""
        inside = mask[box.y : box.y + box.height, box.x : box.x + box.width]
        return cls((mask.shape[0], mask.shape[1]), box, np.packbits(inside, axis=1))

    def unpack(self) -> Mask:
        """The mask, (height, width) bool."""
        mask = np.zeros(self.shape, np.bool_)
        box = self.box
        inside = np.unpackbits(self.bits, axis=1, count=box.width).astype(np.bool_)
        mask[box.y : box.y + box.height, box.x : box.x + box.width] = inside
        return mask


@dataclass(eq=False, slots=True)
class RememberedFrame:
    """One frame, and what was computed from it so far: each thing once.

    Attributes:
        frame: the picture.
        masks: the mask of every object that was TRACKED in it, by object id.
        global_features: of the whole frame, once a question needed them.
        pointed_at: whether a region was drawn on it: then it may be all that shows the object.
    """

    frame: Frame
    masks: dict[int, RememberedMask] = field(default_factory=dict)
    global_features: GlobalFeatures | None = None
    pointed_at: bool = False

    def record(self, tracks: Iterable[Track]) -> None:
        """Take over where the objects are."""
        for track in tracks:
            self.masks.pop(track.object_id, None)
            if track.state is TrackState.TRACKED and track.box is not None:
                self.masks[track.object_id] = RememberedMask.of(track.mask, track.box)


class FrameMemory:
    """A bounded ring of frames, oldest first: the newest and those pointed at, the others ``interval`` apart.

    Not thread-safe; its owner locks.
    """

    def __init__(self, capacity: int, interval_s: float) -> None:
        """Remember at most ``capacity`` frames, at least ``interval_s`` seconds apart."""
        self._capacity = capacity
        self._interval_ns = round(interval_s * NANOSECONDS)
        self._frames: list[RememberedFrame] = []
        self._arrived: RememberedFrame | None = None  # the newest; remembered once it has been tracked

    def __len__(self) -> int:
        """How many frames are remembered."""
        return len(self._frames)

    @property
    def newest(self) -> RememberedFrame | None:
        """The newest frame, or None before the first."""
        return self._frames[-1] if self._frames else None

    def arrived(self, frame: Frame) -> RememberedFrame:
        """A frame has come: until it is tracked, it shows only the objects that are pointed at on it."""
        self._arrived = RememberedFrame(frame)
        return self._arrived

    def add(self, seen: RememberedFrame) -> None:
        """Remember a frame as the newest.

        A stamp may repeat (a driver that sends an image twice, a camera that does not stamp) or go back a
        little (images that overtake each other, a clock that is corrected): then the frames that are not
        older make way. One that goes back by more than `SET_BACK_NS` (a bag that starts over, a clock that
        was set back) makes times meaningless: all frames before it are forgotten.
        """
        frames, stamp_ns = self._frames, seen.frame.stamp_ns
        if frames and frames[-1].frame.stamp_ns - stamp_ns > SET_BACK_NS:
            frames.clear()
        while frames and frames[-1].frame.stamp_ns >= stamp_ns:
            # Who takes the place of a frame that was pointed at may now be all that shows the object.
            seen.pointed_at |= frames.pop().pointed_at
        if len(frames) >= 2:
            # The previous newest frame stays only if it is far enough from the one before it.
            apart = frames[-1].frame.stamp_ns - frames[-2].frame.stamp_ns
            if apart < self._interval_ns and not frames[-1].pointed_at:
                frames.pop()
        frames.append(seen)
        del frames[: -self._capacity]

    def at(self, stamp_ns: int) -> RememberedFrame:
        """The remembered frame nearest to a stamp; that which arrived last, if it has the stamp or that is 0.

        Raises:
            NoFrame: none has arrived, or none is within the interval at which frames are remembered and
                `NEAR_NS`. The text says whether the stamp is too old, too new, or of a frame that was not
                tracked.
        """
        if self._arrived is None:
            raise NoFrame("no image has arrived yet: check the image topic, its QoS and image_transport")
        if stamp_ns in (0, self._arrived.frame.stamp_ns):
            return self._arrived
        nearest = min(self._frames, key=lambda seen: abs(seen.frame.stamp_ns - stamp_ns), default=None)
        if nearest is None:
            raise NoFrame(
                f"the first image, of {self._arrived.frame.stamp_ns} ns, is still being tracked, and none is "
                f"of {stamp_ns} ns: leave the region's stamp zero for the newest"
            )
        if abs(nearest.frame.stamp_ns - stamp_ns) > min(self._interval_ns, NEAR_NS):
            raise NoFrame(f"no image is remembered near stamp {stamp_ns} ns: {self._instead_of(stamp_ns)}")
        return nearest

    def _instead_of(self, stamp_ns: int) -> str:
        """What to do about a stamp near which there is no frame."""
        stamps = [seen.frame.stamp_ns for seen in self._frames]
        if stamp_ns < stamps[0]:
            return (
                f"the oldest is of {stamps[0]} ns; send the region sooner, leave its stamp zero for the "
                "newest, or raise history_frames"
            )
        if stamp_ns > stamps[-1]:
            return (
                f"the newest that was tracked is of {stamps[-1]} ns; the tracker is behind the camera: send "
                "the region again when an image of its time has been tracked, or leave its stamp zero"
            )
        before = max(stamp for stamp in stamps if stamp < stamp_ns)
        after = min(stamp for stamp in stamps if stamp > stamp_ns)
        return (
            f"those next to it are of {before} and {after} ns, the images between were not tracked; draw the "
            "region on one that was, or leave its stamp zero for the newest"
        )

    def showing(self, object_ids: Sequence[int]) -> list[RememberedFrame]:
        """The frames in which all these objects were TRACKED, or just pointed at, oldest first."""
        return [seen for seen in self._all() if all(i in seen.masks for i in object_ids)]

    def forget(self, object_id: int) -> None:
        """Drop what is known of one object in every frame."""
        for seen in self._all():
            seen.masks.pop(object_id, None)

    def _all(self) -> list[RememberedFrame]:
        """Every frame, with the one that is being tracked once a region was taken in on it."""
        if self._arrived is None or self._arrived is self.newest or not self._arrived.masks:
            return self._frames
        return [*self._frames, self._arrived]


def spread(
    frames: Sequence[RememberedFrame], count: int, history_s: float, now_ns: int
) -> list[RememberedFrame]:
    """Choose ``count`` frames evenly over the last ``history_s`` seconds before ``now_ns``.

    Args:
        frames: candidates, oldest first; at least one.
        count: how many to look at; 1 gives the newest candidate.
        history_s: seconds; 0 means as far back as ``frames`` reaches.
        now_ns: stamp of the newest frame there is.

    Returns:
        At most ``count`` distinct frames, oldest first; the newest candidate is always among them.
    """
    last = frames[-1]
    if count <= 1:
        return [last]
    since = now_ns - round(history_s * NANOSECONDS) if history_s > 0 else frames[0].frame.stamp_ns
    within = [seen for seen in frames if seen.frame.stamp_ns >= since] or [last]
    wanted = np.linspace(max(since, within[0].frame.stamp_ns), within[-1].frame.stamp_ns, count)
    stamps = np.array([seen.frame.stamp_ns for seen in within], np.float64)
    nearest = sorted({int(np.abs(stamps - target).argmin()) for target in wanted})
    return [within[i] for i in nearest]
