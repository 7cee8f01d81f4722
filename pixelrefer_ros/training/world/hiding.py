# SPDX-License-Identifier: Apache-2.0
"""How objects come to be covered: partly by a board or by one another, wholly for a while, or by leaving."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from pixelrefer_ros.training.world.scene import BoardSpec, ObjectSpec, Scene
from pixelrefer_ros.training.world.vocabulary import AWAY_AND_BACK, DIRECTIONS

_HIDDEN_S = (0.6, 1.5)
_HIDDEN_SHARE = 0.42  # of the clip at most
_ACROSS = 1.3  # a board's width over the diameter it hides
_SHADES = (88, 150)


@dataclass(frozen=True, slots=True)
class Hiding:
    """An object that is wholly hidden for a while, and what hides it."""

    hidden: ObjectSpec
    boards: tuple[BoardSpec, ...] = ()


def hide(rng: np.random.Generator, still: ObjectSpec, scene: Scene) -> Hiding | None:
    """Lets an object pass behind a board, a board pass over it, or the object leave and come back.

    It is wholly hidden once, for 0.6 to 1.5 s (less in clips under 3.6 s), near the middle of the clip, and
    wholly visible at its beginning and end.

    Returns:
        None where this object, drawn there, cannot be hidden so.
    """
    duration = scene.duration_s
    longest = min(_HIDDEN_S[1], _HIDDEN_SHARE * duration)
    hidden_s = float(rng.uniform(min(_HIDDEN_S[0], longest), longest))
    middle_s = float(rng.uniform(0.42, 0.58)) * duration
    way = (_pass_behind, _sweep_over, _go_away)[int(rng.integers(3))]
    found = way(rng, still, scene, hidden_s, middle_s)
    if found is None:
        return None
    for time_s in (0.0, duration):
        pose = found.hidden.pose(time_s, duration)
        reach = found.hidden.radius + 2
        if not (reach <= pose.x <= scene.width - reach and reach <= pose.y <= scene.height - reach):
            return None
    return found


def lay_board_over(rng: np.random.Generator, covered: ObjectSpec) -> BoardSpec:
    """A still board over a part of where an object begins."""
    size = rng.uniform(0.9, 1.6, 2) * covered.radius * 2
    angle = float(rng.uniform(0, 2 * math.pi))
    # The near edge lies so far from the middle: beyond it, and all but a sliver is covered.
    reach = covered.radius * float(rng.uniform(-0.75, 0.7))
    x = covered.x + math.cos(angle) * (reach + size[0] / 2)
    y = covered.y + math.sin(angle) * (reach + size[1] / 2)
    return _board(rng, x, y, float(size[0]), float(size[1]))


def put_in_front(rng: np.random.Generator, nearer: ObjectSpec, further: ObjectSpec) -> ObjectSpec:
    """The object moved to where it covers a part of another one, going along with it."""
    angle = float(rng.uniform(0, 2 * math.pi))
    distance = float(rng.uniform(0.45, 0.78)) * (nearer.radius + further.radius)
    return replace(
        nearer,
        x=further.x + distance * math.cos(angle),
        y=further.y + distance * math.sin(angle),
        motion=further.motion if further.motion in DIRECTIONS else "still",
        velocity=further.velocity if further.motion in DIRECTIONS else (0.0, 0.0),
        growth=1.0,
        spin=0.0,
    )


def _pass_behind(
    rng: np.random.Generator, still: ObjectSpec, scene: Scene, hidden_s: float, middle_s: float
) -> Hiding | None:
    motion = tuple(DIRECTIONS)[int(rng.integers(4))]
    step = DIRECTIONS[motion]
    side = scene.width if step[0] else scene.height
    speed = float(rng.uniform(0.5, 0.85)) * side / scene.duration_s
    diameter = 2 * still.radius
    along = diameter + speed * hidden_s
    if speed * min(middle_s, scene.duration_s - middle_s) < (along + diameter) / 2 + 2:
        return None  # not clear of the board at both ends
    moving = replace(still, motion=motion, velocity=(step[0] * speed, step[1] * speed))
    pose = moving.pose(middle_s, scene.duration_s)
    across = diameter * _ACROSS
    width, height = (along, across) if step[0] else (across, along)
    return Hiding(moving, (_board(rng, pose.x, pose.y, width, height),))


def _sweep_over(
    rng: np.random.Generator, still: ObjectSpec, scene: Scene, hidden_s: float, middle_s: float
) -> Hiding | None:
    step = tuple(DIRECTIONS.values())[int(rng.integers(4))]
    diameter = 2 * still.radius
    clear_s = min(middle_s, scene.duration_s - middle_s) - hidden_s / 2
    if clear_s <= 0.2:
        return None
    speed = (diameter + 3) / clear_s * float(rng.uniform(1.2, 2.0))
    along, across = diameter + speed * hidden_s, diameter * _ACROSS
    width, height = (along, across) if step[0] else (across, along)
    velocity = (step[0] * speed, step[1] * speed)
    board = _board(rng, still.x - velocity[0] * middle_s, still.y - velocity[1] * middle_s, width, height)
    return Hiding(still, (replace(board, velocity=velocity),))


def _go_away(
    rng: np.random.Generator, still: ObjectSpec, scene: Scene, hidden_s: float, middle_s: float
) -> Hiding | None:
    step = tuple(DIRECTIONS.values())[int(rng.integers(4))]
    room = {(-1, 0): still.x, (1, 0): scene.width - still.x, (0, -1): still.y, (0, 1): scene.height - still.y}
    out_s = middle_s - hidden_s / 2
    if out_s <= 0.3 or room[step] > 0.6 * scene.short_side:
        return None
    speed = (room[step] + still.radius) / out_s
    return Hiding(
        replace(still, motion=AWAY_AND_BACK, velocity=(step[0] * speed, step[1] * speed), turn_s=middle_s)
    )


def _board(rng: np.random.Generator, x: float, y: float, width: float, height: float) -> BoardSpec:
    return BoardSpec(x, y, width, height, int(rng.integers(*_SHADES)), int(rng.integers(1 << 31)))
