# SPDX-License-Identifier: Apache-2.0
"""What happens to an object over the frames looked at: its motion, and when it is hidden."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from pixelrefer_ros.training.world.sight import Sight
from pixelrefer_ros.training.world.vocabulary import AWAY_AND_BACK, DIRECTIONS

MOVED = 0.12
"""Of the short side: a motion is asked about only if the object moved so far over the frames looked at."""
CHANGED = 1.3
"""Growing and shrinking: the size changed at least by this factor."""
TURNED_DEG, STEP_DEG = 40.0, 32.0
"""Rotating: it turned at least so far in all, and at most so far between two frames looked at."""
GAP = 2.0
"""A gap in the times is a time of hiding only from this multiple of the usual step on."""
NO_GAP = 1.5
"""Up to this multiple, a step is certainly none."""


def choose_views(
    sight: Sight, numbers: Sequence[int], first: int, last: int, count: int, *, glimpses: bool = False
) -> tuple[int, ...] | None:
    """The frames of a window that a robot's memory would offer: spread evenly, all objects seen.

    Args:
        sight: what can be seen.
        numbers: the objects asked about.
        first: where the window begins, frame index.
        last: where it ends, included.
        count: how many frames are asked for.
        glimpses: between the first and the last it is enough that a tracker may have them.

    Returns:
        At least two indices in time order; None where the objects are not seen together at both ends.
    """
    shown = np.all([sight.seen(number)[first : last + 1] for number in numbers], axis=0)
    if glimpses:
        shown[1:-1] = np.all([sight.glimpsed(number)[first + 1 : last] for number in numbers], axis=0)
    candidates = np.flatnonzero(shown) + first
    if len(candidates) < 2 or candidates[0] != first or candidates[-1] != last:
        return None
    targets = np.linspace(first, last, count)
    views = sorted({int(candidates[np.abs(candidates - target).argmin()]) for target in targets})
    return tuple(views) if len(views) > 1 else None


def motion_of(sight: Sight, number: int, views: Sequence[int]) -> str | None:
    """The motion of `MOTIONS` over the frames looked at; None where it has none, or too little to be seen."""
    scene = sight.scene
    motion = scene.objects[number].motion
    start, end = scene.pose(number, views[0]), scene.pose(number, views[-1])
    steps = [
        math.degrees(abs(scene.pose(number, b).angle - scene.pose(number, a).angle))
        for a, b in pairwise(views)
    ]
    if motion in DIRECTIONS:
        moved = math.hypot(end.x - start.x, end.y - start.y) / scene.short_side
        return motion if moved >= MOVED else None
    if motion in ("growing", "shrinking"):
        ratio = max(end.scale / start.scale, start.scale / end.scale)
        return motion if ratio >= CHANGED else None
    if motion == "rotating":
        return motion if sum(steps) >= TURNED_DEG and max(steps) <= STEP_DEG else None
    return None if motion == AWAY_AND_BACK else motion


def hiding_of(
    sight: Sight, number: int, views: Sequence[int], *, plain: bool = True
) -> tuple[float, float] | str | None:
    """When an object is hidden between the first and the last frame looked at.

    Args:
        sight: what can be seen.
        number: of the object.
        views: the frames looked at, in time order.
        plain: only where a gap in their times shows it; otherwise wherever the object is hidden between two
            of them.

    Returns:
        The last time it is seen before and the first time after, s from the first frame looked at; "never";
        or None where the frames looked at do not tell.
    """
    first, last = views[0], views[-1]
    seen, gone = sight.seen(number)[first : last + 1], sight.gone(number)[first : last + 1]
    if seen.all():
        return "never"
    starts = np.flatnonzero(gone[1:] & ~gone[:-1]) + 1 + first
    if len(starts) != 1 or sight.gone(number)[list(views)].any():
        return None  # never wholly hidden, or more than once, or it is looked at while it is
    steps = np.diff(views)
    place = int(np.searchsorted(views, starts[0])) - 1
    usual = float(np.median(steps))
    if plain and (steps[place] < GAP * usual or np.any(np.delete(steps, place) > NO_GAP * usual)):
        return None
    rate = sight.scene.rate_hz
    return (views[place] - first) / rate, (views[place + 1] - first) / rate
