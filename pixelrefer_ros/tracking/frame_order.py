# SPDX-License-Identifier: Apache-2.0
"""Which frames are the same, and how far apart they are."""

from __future__ import annotations

from collections import deque

from pixelrefer_ros.types import Frame

REMEMBERED_FRAMES = 4096
"""Stamps kept, to place a late prompt: over two minutes at 30 Hz."""

FrameKey = tuple[int, str, int]


def frame_key(frame: Frame) -> FrameKey:
    """Return what identifies a frame: its stamp and optical frame.

    A camera that does not stamp its pictures (stamp 0) has only the array to tell them apart; then the
    key is good as long as the frame is kept alive.
    """
    return (frame.stamp_ns, frame.frame_id, 0 if frame.stamp_ns else id(frame.rgb))


class FrameOrder:
    """Counts processed frames; distances between frames are differences of these counts.

    A frame that was never processed counts as the processed frame before it. A prompt frame that was
    skipped, or that is older than every remembered stamp, is so placed next to its neighbour; the
    first frame processed after a prompt is at least one frame away from it.
    """

    def __init__(self) -> None:
        """Start with no frame."""
        self._stamps: deque[int] = deque(maxlen=REMEMBERED_FRAMES)
        self._count = 0

    def process(self, stamp_ns: int) -> int:
        """Count one more processed frame and return its number.

        A stamp older than the newest means that the clock was set back (a bag that starts again):
        the numbers go on, but earlier stamps no longer place anything.
        """
        if self._stamps and stamp_ns < self._stamps[-1]:
            self._stamps.clear()
        self._stamps.append(stamp_ns)
        self._count += 1
        return self._count - 1

    def place(self, stamp_ns: int) -> int:
        """Return the number of a frame that is prompted: processed before, skipped, or not yet processed."""
        newer = 0
        for stamp in reversed(self._stamps):
            if stamp <= stamp_ns:
                break
            newer += 1
        if newer == 0 and not (self._stamps and self._stamps[-1] == stamp_ns):
            return self._count  # the next one, unless another frame is processed first
        return self._count - 1 - newer

    def first_from(self, stamp_ns: int) -> int:
        """Return the number of the oldest processed frame that is not older than a stamp."""
        return self._count - sum(stamp >= stamp_ns for stamp in self._stamps)
