# SPDX-License-Identifier: Apache-2.0
"""The silhouettes: closed outlines in a unit circle, turning about their centroid."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

Contour = NDArray[np.float64]
"""(P, 2) x to the right, y down; the shape's furthest point is 1 away from the origin, its centroid."""

_ARC = 96  # points on a full turn: at a radius of 240 px the chord error stays under 0.15 px


@cache
def outline(shape: str) -> tuple[Contour, ...]:
    """The contours of a shape; a second one is a hole.

    Raises:
        KeyError: the shape is not one of `SHAPES`.
    """
    contours = _OUTLINES[shape]()
    middle = _centroid(contours[0])
    contours = tuple(contour - middle for contour in contours)
    reach = max(float(np.hypot(*contour.T).max()) for contour in contours)
    return tuple(contour / reach for contour in contours)


def _arc(radius: float, start: float, stop: float, center: tuple[float, float] = (0.0, 0.0)) -> Contour:
    count = max(2, round(_ARC * abs(stop - start) / 360.0))
    angles = np.radians(np.linspace(start, stop, count))
    return np.stack((center[0] + radius * np.cos(angles), center[1] + radius * np.sin(angles)), axis=1)


def _polygon(*points: tuple[float, float]) -> tuple[Contour, ...]:
    return (np.array(points, np.float64),)


def _circle() -> tuple[Contour, ...]:
    return (_arc(1.0, 0.0, 360.0),)


def _square() -> tuple[Contour, ...]:
    return _polygon((-1, -1), (1, -1), (1, 1), (-1, 1))


def _triangle() -> tuple[Contour, ...]:
    return _polygon(*((math.sin(a), -math.cos(a)) for a in (0.0, 2 * math.pi / 3, 4 * math.pi / 3)))


def _star() -> tuple[Contour, ...]:
    radii = (1.0, 0.42)
    return _polygon(
        *(
            (radii[i % 2] * math.sin(i * math.pi / 5), -radii[i % 2] * math.cos(i * math.pi / 5))
            for i in range(10)
        )
    )


def _heart() -> tuple[Contour, ...]:
    t = np.linspace(0.0, 2 * np.pi, _ARC, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return (np.stack((x, y), axis=1) / 17.0,)


def _cross() -> tuple[Contour, ...]:
    w = 0.34
    corners = [
        (-w, -1),
        (w, -1),
        (w, -w),
        (1, -w),
        (1, w),
        (w, w),
        (w, 1),
        (-w, 1),
        (-w, w),
        (-1, w),
        (-1, -w),
        (-w, -w),
    ]
    return _polygon(*corners)


def _ring() -> tuple[Contour, ...]:
    return (_arc(1.0, 0.0, 360.0), _arc(0.52, 0.0, 360.0))


def _crescent() -> tuple[Contour, ...]:
    # The outer arc around the origin, the inner one around a point to its right, through the same two tips.
    tips, shift = 58.0, 0.62
    tip = (math.cos(math.radians(tips)), math.sin(math.radians(tips)))
    inner_radius = math.hypot(tip[0] - shift, tip[1])
    inner_angle = math.degrees(math.atan2(tip[1], tip[0] - shift))
    outer = _arc(1.0, tips, 360.0 - tips)
    inner = _arc(inner_radius, 360.0 - inner_angle, inner_angle, (shift, 0.0))
    return (np.concatenate((outer, inner[1:-1])),)


def _arrow() -> tuple[Contour, ...]:
    return _polygon((1, 0), (0.1, -0.8), (0.1, -0.3), (-1, -0.3), (-1, 0.3), (0.1, 0.3), (0.1, 0.8))


def _hourglass() -> tuple[Contour, ...]:
    return _polygon((-0.75, -1), (0.75, -1), (0.13, 0), (0.75, 1), (-0.75, 1), (-0.13, 0))


_OUTLINES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "ring": _ring,
    "crescent": _crescent,
    "arrow": _arrow,
    "hourglass": _hourglass,
}


def _centroid(contour: Contour) -> Contour:
    """Area centroid of a simple polygon."""
    x, y = contour.T
    x2, y2 = np.roll(x, -1), np.roll(y, -1)
    cross = x * y2 - x2 * y
    area = cross.sum() / 2
    return np.array(((x + x2) @ cross, (y + y2) @ cross)) / (6 * area)
