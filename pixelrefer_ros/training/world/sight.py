# SPDX-License-Identifier: Apache-2.0
"""What can be seen of the objects of a scene, measured from the masks, with the margins of questions."""

from __future__ import annotations

from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from pixelrefer_ros.training.world.pointing import box_of
from pixelrefer_ros.training.world.rendering import Renderer
from pixelrefer_ros.training.world.scene import Scene
from pixelrefer_ros.training.world.vocabulary import PLACES, SIZES
from pixelrefer_ros.types import Box

RECOGNIZABLE_SHARE, RECOGNIZABLE_PX = 0.7, 80
"""An object is named, and asked about, only where at least so much of it is seen."""
SEEN_SHARE, SEEN_PX = 0.3, 40
"""A frame in which less is seen is not looked at: a tracker may not find it there."""
GLIMPSED_PX = 10
"""A tracker may find it where no more is seen than this: a sliver at the edge of what hides it."""
GONE_PX = 2
"""At most so many pixels seen: hidden. In between, neither is ever claimed."""
WHOLE_SHARE = 0.95
"""Sizes are compared, and size words used, only where so much is seen."""
PLACE_MARGIN = 0.05
"""Of the frame's side: no place is asked for where the middle is nearer than that to a line between cells."""
SIZE_MARGIN = 0.01
"""Of the frame's short side: diameters nearer than that to the end of a size's range have no size word."""


class Sight:
    """Measures the frames of one scene; each only once, and only when it is asked about."""

    def __init__(self, renderer: Renderer) -> None:
        """Nothing is measured yet."""
        self.renderer = renderer
        self._centers: dict[tuple[int, int], tuple[float, float]] = {}
        self._edges: dict[tuple[int, int], NDArray[np.float64]] = {}

    @property
    def scene(self) -> Scene:
        """What is seen."""
        return self.renderer.scene

    @cached_property
    def pixels(self) -> NDArray[np.int64]:
        """(T, N) visible pixels."""
        return np.array(
            [
                [np.count_nonzero(mask) for mask in self.renderer.layers(index).visible]
                for index in range(self.scene.frames)
            ]
        )

    @cached_property
    def shares(self) -> NDArray[np.float64]:
        """(T, N) visible pixels over those of the whole object, in [0, 1]."""
        areas = np.array([self.renderer.layers(index).full_area for index in range(self.scene.frames)])
        return np.asarray(self.pixels / np.maximum(areas, 1), np.float64)

    def recognizable(self, number: int, index: int) -> bool:
        """Whether enough is seen to say what it is."""
        return bool(
            self.shares[index, number] >= RECOGNIZABLE_SHARE and self.pixels[index, number] >= RECOGNIZABLE_PX
        )

    def seen(self, number: int) -> NDArray[np.bool_]:
        """(T,) whether a tracker can be expected to have it."""
        return (self.shares[:, number] >= SEEN_SHARE) & (self.pixels[:, number] >= SEEN_PX)

    def glimpsed(self, number: int) -> NDArray[np.bool_]:
        """(T,) whether a tracker may have it, be it a sliver of it."""
        return self.pixels[:, number] >= GLIMPSED_PX

    def gone(self, number: int) -> NDArray[np.bool_]:
        """(T,) whether it is hidden."""
        return self.pixels[:, number] <= GONE_PX

    def whole(self, number: int, index: int) -> bool:
        """Whether nothing of note is hidden."""
        return bool(self.shares[index, number] >= WHOLE_SHARE)

    def center(self, number: int, index: int) -> tuple[float, float]:
        """(x, y) px, the centroid of what is seen; something must be."""
        key = (number, index)
        if key not in self._centers:
            rows, columns = np.nonzero(self.renderer.layers(index).visible[number])
            self._centers[key] = (float(columns.mean()), float(rows.mean()))
        return self._centers[key]

    def gap(self, number: int, other: int, index: int) -> float:
        """From the edge of what is seen of one object to that of another, px; of both something must be."""
        one, two = self._edge(number, index), self._edge(other, index)
        squares = (one**2).sum(axis=1)[:, None] + (two**2).sum(axis=1) - 2 * one @ two.T
        return float(np.sqrt(squares.min()))

    def _edge(self, number: int, index: int) -> NDArray[np.float64]:
        """(P, 2) x, y of the outermost pixels of what is seen of an object."""
        key = (number, index)
        if key not in self._edges:
            mask = self.renderer.layers(index).visible[number].astype(np.uint8)
            contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            self._edges[key] = np.concatenate(contours)[:, 0].astype(np.float64)
        return self._edges[key]

    def box(self, number: int, index: int) -> Box:
        """The tight box of what is seen; something must be."""
        return box_of(self.renderer.layers(index).visible[number])

    def place(self, number: int, index: int) -> str | None:
        """The cell of the 3 x 3 grid; None near a line between two."""
        x, y = self.center(number, index)
        cells = []
        for value, side in ((y, self.scene.height), (x, self.scene.width)):
            share = (value + 0.5) / side
            if min(abs(share - 1 / 3), abs(share - 2 / 3)) < PLACE_MARGIN:
                return None
            cells.append(min(int(share * 3), 2))
        return PLACES[cells[0]][cells[1]]

    def size(self, number: int, index: int) -> str | None:
        """Its size word; None between two, or where it is not wholly seen."""
        if not self.whole(number, index):
            return None
        diameter = self.scene.diameter(number, index)
        for word, (low, high) in SIZES.items():
            if low - SIZE_MARGIN <= diameter <= high + SIZE_MARGIN:
                return word
        return None

    def cover_shares(self, number: int, index: int) -> tuple[dict[int, float], float]:
        """Who covers an object: the share that lies behind each object in front of it, and behind boards.

        A thing that covers another which covers this one counts too: it is in front of both.
        """
        layers = self.renderer.layers(index)
        own = layers.amodal[number]
        area = max(int(np.count_nonzero(own)), 1)
        shares = {
            other: float(np.count_nonzero(own & layers.amodal[other]) / area)
            for other in range(number + 1, len(self.scene.objects))
        }
        boards = layers.boards.any(axis=0) if len(layers.boards) else np.zeros_like(own)
        return shares, float(np.count_nonzero(own & boards) / area)
