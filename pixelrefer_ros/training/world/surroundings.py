# SPDX-License-Identifier: Apache-2.0
"""Who is beside, in front of and behind an object; None wherever two readings are possible."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pixelrefer_ros.training.world.sight import GONE_PX, Sight
from pixelrefer_ros.training.world.vocabulary import BOARD

Side = Literal["left", "right", "above", "below"]
SIDES: dict[Side, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}

NOTHING = "nothing"
CONE = 0.7
"""Beside: the offset across is at most so much of the offset along, 35 degrees."""
OUTSIDE_CONE = 1.4
"""Not beside: it is at least so much. In between, no question is asked."""
NEAREST_MARGIN = 1.3
"""The next nearest is at least so many times as far, from middle to middle."""
CLEAR_SIDE = 0.05
"""Of the short side: "nothing" is said of a side only if every object's middle is so far on the other one,
and every board's, of which nothing is within the cone either."""
COVERED = 0.12
"""An object covers another from this share on; below `UNCOVERED` it doesn't, in between nothing is asked."""
UNCOVERED = 0.01


def name(sight: Sight, number: int) -> str:
    """What a neighbour is called: colour and shape."""
    combination = sight.scene.objects[number].combination
    return f"{combination.color} {combination.shape}"


def next_to(sight: Sight, number: int, index: int) -> int | str | None:
    """The nearest object, `NOTHING` if there is no other, None if it is unclear or cannot be named.

    It is the nearest both from middle to middle and from edge to edge. Where only a board is seen, that might
    be meant.
    """
    others = _others(sight, number, index)
    if not others:
        return None if _boards(sight, number, index) else NOTHING
    (distance, nearest), *further = sorted((math.hypot(dx, dy), other) for other, (dx, dy) in others.items())
    if further and further[0][0] < NEAREST_MARGIN * distance:
        return None
    gap = sight.gap(number, nearest, index)
    if any(sight.gap(number, other, index) < gap for _, other in further):
        return None  # a large one reaches nearer than one whose middle is near
    return _nameable(sight, nearest, index)


def beside(sight: Sight, number: int, index: int, side: Side) -> int | str | None:
    """The nearest object on one side, `NOTHING` if not even a board is there, None if it is unclear."""
    step = SIDES[side]
    inside: list[tuple[float, int]] = []
    doubtful: list[float] = []
    clear = True
    for other, (dx, dy) in _others(sight, number, index).items():
        along, across = dx * step[0] + dy * step[1], abs(dx * step[1] + dy * step[0])
        clear = clear and along < -CLEAR_SIDE * sight.scene.short_side
        if along <= 0 or across >= OUTSIDE_CONE * along:
            continue
        if across <= CONE * along:
            inside.append((math.hypot(dx, dy), other))
        else:
            doubtful.append(math.hypot(dx, dy))
    if clear:
        return None if _board_at(sight, number, index, step) else NOTHING
    if not inside:
        return None
    inside.sort()
    rivals = doubtful + [distance for distance, _ in inside[1:]]
    if rivals and min(rivals) < NEAREST_MARGIN * inside[0][0]:
        return None
    return _nameable(sight, inside[0][1], index)


def side_of(sight: Sight, number: int, other: int, index: int) -> Side | None:
    """On which side of an object another one is; None on a diagonal."""
    x, y = sight.center(number, index)
    other_x, other_y = sight.center(other, index)
    for side, step in SIDES.items():
        along = (other_x - x) * step[0] + (other_y - y) * step[1]
        across = abs((other_x - x) * step[1] + (other_y - y) * step[0])
        if along > 0 and across <= CONE * along:
            return side
    return None


def all_beside(sight: Sight, number: int, index: int) -> list[tuple[Side, int]]:
    """Everybody of whom anything is seen and who is straight on one side, and that side."""
    sides = ((side_of(sight, number, other, index), other) for other in _others(sight, number, index))
    return [(side, other) for side, other in sides if side is not None]


def in_front(sight: Sight, number: int, index: int) -> str | None:
    """The name of what covers a part of an object, `NOTHING`, or None if it is unclear."""
    shares, boards = sight.cover_shares(number, index)
    covering = [other for other, share in shares.items() if share >= COVERED]
    doubtful = any(UNCOVERED < share < COVERED for share in (*shares.values(), boards))
    if doubtful or len(covering) + (boards >= COVERED) > 1:
        return None
    if boards >= COVERED:
        return BOARD
    if not covering:
        return NOTHING
    front = _nameable(sight, covering[0], index)
    return None if front is None else name(sight, front)


def behind(sight: Sight, number: int, index: int) -> int | str | None:
    """The object that this one covers a part of, `NOTHING`, or None if it is unclear."""
    covered, doubtful = [], False
    for other in range(number):
        share = sight.cover_shares(other, index)[0][number]
        covered += [other] if share >= COVERED else []
        doubtful = doubtful or UNCOVERED < share < COVERED
    if doubtful or len(covered) > 1:
        return None
    return _nameable(sight, covered[0], index) if covered else NOTHING


def who_is(sight: Sight, number: int, index: int, where: str) -> int | str | None:
    """Who is on one of the four sides, or "next": an object's number, `NOTHING`, or None if it is unclear."""
    if where == "next":
        return next_to(sight, number, index)
    return beside(sight, number, index, next(side for side in SIDES if side == where))


def neighbors(sight: Sight, number: int, index: int) -> dict[str, str | None]:
    """Who is on each side ("left", "right", "above", "below"), "next", in "front" and "behind", by name.

    `NOTHING` where nobody is, None where it is unclear.
    """
    found = {where: who_is(sight, number, index, where) for where in (*SIDES, "next")}
    found |= {"front": in_front(sight, number, index), "behind": behind(sight, number, index)}
    return {where: name(sight, who) if isinstance(who, int) else who for where, who in found.items()}


def _nameable(sight: Sight, number: int, index: int) -> int | None:
    return number if sight.shares[index, number] >= 0.5 and sight.pixels[index, number] >= 80 else None


def _others(sight: Sight, number: int, index: int) -> dict[int, tuple[float, float]]:
    """Offsets (x, y) px to every other object of which anything is seen."""
    x, y = sight.center(number, index)
    offsets = {}
    for other in range(len(sight.scene.objects)):
        if other != number and sight.pixels[index, other] > GONE_PX:
            other_x, other_y = sight.center(other, index)
            offsets[other] = (other_x - x, other_y - y)
    return offsets


def _board_at(sight: Sight, number: int, index: int, step: tuple[int, int]) -> bool:
    """Whether a board is on one side, by its middle or by some of it that is straight there."""
    for offsets in _boards(sight, number, index):
        along, across = offsets @ step, np.abs(offsets @ step[::-1])
        straight = (along > 0) & (across <= CONE * along)
        if along.mean() >= -CLEAR_SIDE * sight.scene.short_side or straight.any():
            return True
    return False


def _boards(sight: Sight, number: int, index: int) -> list[NDArray[np.float64]]:
    """Of every board that is seen, offsets (P, 2) x, y px to its pixels."""
    middle = sight.center(number, index)
    pixels = (np.argwhere(mask)[:, ::-1] for mask in sight.renderer.layers(index).boards if mask.any())
    return [of_board - np.array(middle) for of_board in pixels]
