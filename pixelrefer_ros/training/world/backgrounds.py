# SPDX-License-Identifier: Apache-2.0
"""What lies behind the objects: dull colours, texture and clutter, none of it an object."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from pixelrefer_ros.types import RgbImage

Shades = NDArray[np.float32]
"""(H, W) around 0, about 1 at most."""

_CLUTTER = 36


def background(kind: str, seed: int, width: int, height: int) -> RgbImage:
    """A background of mid brightness and low saturation.

    Args:
        kind: one of `BACKGROUNDS`.
        seed: of its colours and details.
        width: px.
        height: px.
    """
    rng = np.random.default_rng(seed)
    shades = _KINDS[kind](rng, width, height)
    if rng.random() < 0.5:
        shades = shades + 0.5 * _clouds(rng, width, height)
    level, contrast = rng.uniform(70, 165), rng.uniform(8, 26)
    tint = rng.uniform(-14, 14, 3)
    picture = level + tint + contrast * np.clip(shades, -2, 2)[..., None]
    return np.clip(picture, 30, 210).astype(np.uint8)


def _plain(rng: np.random.Generator, width: int, height: int) -> Shades:
    return np.full((height, width), rng.uniform(-0.5, 0.5), np.float32)


def _clouds(rng: np.random.Generator, width: int, height: int) -> Shades:
    total = np.zeros((height, width), np.float32)
    for cells, weight in ((4, 0.6), (9, 0.35), (22, 0.25)):
        grid = rng.uniform(-1, 1, (cells, cells + 1)).astype(np.float32)
        total += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return total


def _grain(rng: np.random.Generator, width: int, height: int) -> Shades:
    fine = rng.normal(0, 1, (height // 2 + 1, width // 2 + 1)).astype(np.float32)
    return np.asarray(cv2.resize(fine, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _planks(rng: np.random.Generator, width: int, height: int) -> Shades:
    count = int(rng.integers(5, 12))
    edges = np.sort(rng.uniform(0, height, count)).astype(int)
    shades = np.zeros((height, width), np.float32)
    for top, bottom in zip([0, *edges], [*edges, height], strict=True):
        shades[top:bottom] = rng.uniform(-0.7, 0.7) + rng.normal(0, 0.15, (bottom - top, 1))
        shades[top : top + 2] -= 0.8
    return shades if rng.random() < 0.5 else _turned(shades, width, height)


def _tiles(rng: np.random.Generator, width: int, height: int) -> Shades:
    cell = int(rng.integers(height // 10, height // 4))
    across, down = width // cell + 2, height // cell + 2
    tiles = rng.uniform(-0.5, 0.5, (down, across)).astype(np.float32)
    shades = np.kron(tiles, np.ones((cell, cell), np.float32))[:height, :width]
    shades[::cell] = -1.0
    shades[:, ::cell] = -1.0
    return shades


def _clutter(rng: np.random.Generator, width: int, height: int) -> Shades:
    shades = 0.4 * _clouds(rng, width, height)
    for _ in range(_CLUTTER):
        middle = rng.uniform((0, 0), (width, height))
        reach = rng.uniform(0.02, 0.16) * height
        if rng.random() < 0.3:
            end = middle + rng.normal(0, 3 * reach, 2)
            cv2.line(
                shades,
                middle.astype(int).tolist(),
                end.astype(int).tolist(),
                float(rng.uniform(-1.2, 1.2)),
                int(rng.integers(1, 4)),
            )
        else:  # ragged outlines, like no shape of the vocabulary
            corners = middle + rng.normal(0, reach, (int(rng.integers(3, 8)), 2))
            cv2.fillPoly(shades, [corners.astype(np.int32)], float(rng.uniform(-1.1, 1.1)))
    return shades


def _patterned(rng: np.random.Generator, width: int, height: int) -> Shades:
    """Faint stripes and checks on the background itself, so that a pattern alone makes no object."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(8, 40)
    along = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
    across = np.sin(2 * np.pi * (-x * np.sin(angle) + y * np.cos(angle)) / period)
    pattern = along if rng.random() < 0.5 else np.sign(along * across)
    return np.asarray(0.7 * pattern, np.float32)


def _turned(shades: Shades, width: int, height: int) -> Shades:
    return np.asarray(cv2.resize(np.ascontiguousarray(shades.T), (width, height)), np.float32)


_KINDS: dict[str, Callable[[np.random.Generator, int, int], Shades]] = {
    "plain": _plain,
    "clouds": _clouds,
    "grain": _grain,
    "planks": _planks,
    "tiles": _tiles,
    "clutter": _clutter,
    "patterned": _patterned,
}

BACKGROUNDS = tuple(_KINDS)
