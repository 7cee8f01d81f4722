# SPDX-License-Identifier: Apache-2.0
"""The tracker on one device: frames a second with several objects."""

from __future__ import annotations

import time

import numpy as np
import torch
from gpu_timing import Counts, Measured, memory, spread, synchronize

from pixelrefer_ros.tracking import StateRules, StreamTracker
from pixelrefer_ros.types import Box, Frame, Region

OBJECTS = 4
RULES = StateRules(min_area_px=0, max_area_fraction=1.0, lost_after_frames=10**9, remembers_absence=True)
"""The model is not trained: whatever it sees, every object is decoded and remembered in every frame."""
FILLING = 20
"""Frames after which every slot of the memory is in use: 6 memories and 16 pointers."""
_PERIOD_NS = 33_333_333
_SCENE = 60  # frames after which the scene begins again; the stamps go on


def scene(height: int = 480, width: int = 640) -> list[np.ndarray]:
    """A camera that pans over a coarse texture: (height, width, 3) uint8 each."""
    blocks = np.random.default_rng(0).integers(0, 256, (height // 8, width // 4, 3), dtype=np.uint8)
    plane = blocks.repeat(16, axis=0).repeat(16, axis=1)
    return [np.ascontiguousarray(plane[k : k + height, 2 * k : 2 * k + width]) for k in range(_SCENE)]


def following(tracker: StreamTracker, device: torch.device, counts: Counts) -> Measured:
    """Follows `OBJECTS` objects through 640x480 frames, one frame after the other.

    Args:
        tracker: under `RULES`, with no object yet.
        device: that it runs on.
        counts: how many frames.

    Returns:
        ``frame``: times of a frame (see `spread`); ``frames_per_s``: of all of them; memory.
    """
    pictures = scene()

    def frame(number: int) -> Frame:
        return Frame(pictures[number % _SCENE], (number + 1) * _PERIOD_NS, "camera")

    boxes = [Box(40 + 140 * index, 80 + 60 * index, 120, 120) for index in range(OBJECTS)]
    tracker.prompt(frame(0), [Region(box=box, object_id=index + 1) for index, box in enumerate(boxes)])
    seconds = []
    for number in range(1, 1 + FILLING + counts.frames):
        synchronize(device)
        start = time.perf_counter()
        tracks = tracker.track(frame(number))
        seconds.append(time.perf_counter() - start)  # masks are on the host: nothing is left to wait for
        if len(tracks) != OBJECTS:
            raise ValueError(f"{len(tracks)} of {OBJECTS} objects are followed in frame {number}")
    counted = seconds[FILLING:]
    used = memory(device)
    numbers = iter(range(1 + FILLING + counts.frames, 2 * (FILLING + counts.frames)))
    found = {
        "frame": spread(counted),
        "frames_per_s": len(counted) / sum(counted),
        "objects": OBJECTS,
        "image_size": tracker.image_size,
        "memory": used,
    }
    return Measured(found, {"frame": lambda: tracker.track(frame(next(numbers)))})
