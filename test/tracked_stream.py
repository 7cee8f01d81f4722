# SPDX-License-Identifier: Apache-2.0
"""A small tracker and a stream for it, regions, and what came of them: for the tests of tracking."""

from __future__ import annotations

import numpy as np
import torch
from tracking_scene import HEIGHT, WIDTH, moving_frames

from pixelrefer_ros.tracking import StateRules, StreamTracker
from pixelrefer_ros.tracking.tiny import tiny_sam2
from pixelrefer_ros.types import Box, Frame, Region, Track

OPEN = StateRules(
    min_area_px=0, max_area_fraction=1.0, smallest_part=0.0, apart=False, remembers_absence=True
)
MODEL = tiny_sam2(seed=3, image_size=64)
FRAMES = moving_frames(24)
# A batch sums in another order than one object alone, and memories are rounded to bfloat16; logits are a
# few units, and another region or another history changes them by 1e-1 and more.
SAME = 1e-3


def box(object_id: int, x: int = 20) -> Region:
    """A box of 40 x 30 pixels."""
    return Region(box=Box(x + 10 * object_id, 30, 40, 30), object_id=object_id)


def clicks(object_id: int, *points: tuple[float, float, int]) -> Region:
    """Clicks: x, y, and 1 for the object or 0 for what is none of it."""
    rows = np.array(points, np.float32)
    return Region(points=rows[:, :2], point_labels=rows[:, 2].astype(np.int32), object_id=object_id)


def drawn(object_id: int) -> Region:
    """A mask of 50 x 40 pixels."""
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[40:80, 60:110] = True
    return Region(mask=mask, object_id=object_id)


def logits(tracker: StreamTracker, object_id: int) -> torch.Tensor:
    """The (h, w) logits that this object was decoded to last."""
    return tracker._session.followed(object_id).logits


def distance(first: StreamTracker, second: StreamTracker, object_id: int) -> float:
    """The largest difference between two trackers in the logits of an object."""
    return float((logits(first, object_id) - logits(second, object_id)).abs().max())


def follow(tracker: StreamTracker, frames: list[Frame]) -> list[Track]:
    """Tracks these frames; the tracks of the last."""
    tracks: list[Track] = []
    for frame in frames:
        tracks = tracker.track(frame)
    return tracks


def encoded_pictures(tracker: StreamTracker) -> list[int]:
    """Counts: one entry for each picture that is encoded from now on."""
    calls: list[int] = []
    tracker._sam2.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    return calls
