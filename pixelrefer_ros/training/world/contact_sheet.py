# SPDX-License-Identifier: Apache-2.0
"""Pictures of the world for people: every shape and surface, and scenes with their questions and answers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import cv2
import numpy as np

from pixelrefer_ros.training.world.rendering import Renderer
from pixelrefer_ros.training.world.scene import Look, ObjectSpec, Scene
from pixelrefer_ros.training.world.vocabulary import COLORS, INKS, SHAPES, SURFACES, Combination
from pixelrefer_ros.types import RgbImage

_WHITE = (245, 245, 245)
_EDGES = ((255, 80, 80), (80, 160, 255), (255, 220, 60))
_LINE = 13  # px between lines of text


def vocabulary_sheet(diameter: int, *, seed: int = 0) -> RgbImage:
    """Every shape (columns) with every surface (rows), in all colours by turns, ``diameter`` px across."""
    rng = np.random.default_rng(seed)
    cell = round(diameter * 1.25) + 4
    objects = []
    for number, (surface, shape) in enumerate(product(SURFACES, SHAPES)):
        row, column = divmod(number, len(SHAPES))
        color = list(COLORS)[(column + 2 * row) % len(COLORS)]
        objects.append(
            ObjectSpec(
                Combination(shape, color, surface),
                COLORS[color],
                INKS[color][int(rng.integers(len(INKS[color])))],
                float(rng.uniform(0, np.pi)),
                (column + 0.5) * cell,
                (row + 0.5) * cell,
                diameter / 2,
                float(rng.uniform(0, 2 * np.pi)),
                "still",
            )
        )
    look = Look("clouds", seed, 1.0, (0.1, 0.1), 0.7, 4.0)
    return Renderer(
        Scene(seed, cell * len(SHAPES), cell * len(SURFACES), 1, 1.0, tuple(objects), (), look)
    ).rgb(0)


def film_strip(renderer: Renderer, count: int, *, width: int = 320) -> RgbImage:
    """``count`` frames of a scene side by side, each ``width`` px wide."""
    scene = renderer.scene
    height = round(width * scene.height / scene.width)
    frames = [renderer.rgb(int(index)) for index in np.linspace(0, scene.frames - 1, count)]
    return np.concatenate(
        [cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in frames], axis=1
    )


def outlined(rgb: RgbImage, masks: Sequence[np.ndarray]) -> RgbImage:
    """The picture with each region's edge drawn: red, blue and yellow in the order of the regions."""
    picture = rgb.copy()
    for mask, edge in zip(masks, _EDGES, strict=False):
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, contours, -1, edge, 1)
    return picture


def text_panel(lines: Sequence[str], width: int) -> RgbImage:
    """Small text, one line each, cut at the panel's width."""
    panel = np.full((_LINE * len(lines) + 6, width, 3), 24, np.uint8)
    for number, line in enumerate(lines):
        cv2.putText(
            panel, line, (4, _LINE * (number + 1)), cv2.FONT_HERSHEY_SIMPLEX, 0.36, _WHITE, 1, cv2.LINE_AA
        )
    return panel


def stacked(pictures: Sequence[RgbImage]) -> RgbImage:
    """Pictures under one another, padded on the right to the widest."""
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate([np.pad(p, ((0, 4), (0, width - p.shape[1]), (0, 0))) for p in pictures])
