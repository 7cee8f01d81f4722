# SPDX-License-Identifier: Apache-2.0
"""Regions checked against their frame, and turned into what SAM 2's prompt encoder reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pixelrefer_ros.errors import EmptyRegion, ImageError, NoSuchObject
from pixelrefer_ros.types import MAX_POINTS, Box, Mask, Region, RgbImage

BOX_CORNER_LABELS = (2, 3)
"""SAM 2's labels of a box's top-left and bottom-right corner, given as two points."""


@dataclass(frozen=True, eq=False, slots=True)
class PointPrompt:
    """Points (or a box's two corners) in pixels of the frame.

    Attributes:
        points: (P, 2) float32, (x, y).
        labels: (P,) int32: 1 on the object, 0 off it, 2 and 3 the corners of a box.
    """

    points: NDArray[np.float32]
    labels: NDArray[np.int32]

    @property
    def is_box(self) -> bool:
        """Whether the points are a box's corners."""
        return bool(self.labels[0] == BOX_CORNER_LABELS[0])


@dataclass(frozen=True, eq=False, slots=True)
class MaskPrompt:
    """The object's pixels.

    Attributes:
        mask: (H, W) bool at the frame's size.
    """

    mask: Mask


def check_frame(rgb: RgbImage) -> tuple[int, int]:
    """Return the picture's (height, width).

    Raises:
        ImageError: it is not (height, width, 3) uint8 with at least one pixel.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise ImageError(
            f"a frame of shape {rgb.shape} and type {rgb.dtype}: give (height, width, 3) uint8 RGB"
        )
    return rgb.shape[0], rgb.shape[1]


def clip_box(box: Box, height: int, width: int) -> Box:
    """Return the part of a box that lies on a picture of ``height`` x ``width`` pixels.

    Raises:
        EmptyRegion: no pixel of the box lies on the picture.
    """
    x0, y0 = max(box.x, 0), max(box.y, 0)
    x1, y1 = min(box.x + box.width, width), min(box.y + box.height, height)
    if x1 <= x0 or y1 <= y0:
        raise EmptyRegion(
            f"box x={box.x} y={box.y} width={box.width} height={box.height} covers no pixel of the "
            f"{width}x{height} frame: give a box that overlaps it"
        )
    return Box(x0, y0, x1 - x0, y1 - y0)


def to_prompt(region: Region, height: int, width: int) -> PointPrompt | MaskPrompt:
    """Check a region against a frame of ``height`` x ``width`` pixels.

    A box is cut to the frame. Boxes are given to SAM 2 by their edges, as detectors do: corners
    (x, y) and (x + width, y + height).

    Raises:
        NoSuchObject: the object id is not positive.
        EmptyRegion: the region is not exactly one of box, points or mask, covers no pixel of the
            frame, or its arrays have the wrong shape.
    """
    if region.object_id <= 0:
        raise NoSuchObject(f"object id {region.object_id}: a tracker needs a positive id")
    given = [n for n in ("box", "points", "mask") if getattr(region, n) is not None]
    if len(given) != 1:
        raise EmptyRegion(
            f"a region with {' and '.join(given) or 'nothing'}: give exactly one of box, points, mask"
        )
    if region.box is not None:
        box = clip_box(region.box, height, width)
        corners = [[box.x, box.y], [box.x + box.width, box.y + box.height]]
        return PointPrompt(np.array(corners, np.float32), np.array(BOX_CORNER_LABELS, np.int32))
    if region.mask is not None:
        return _mask_prompt(region.mask, height, width)
    return _point_prompt(region, height, width)


def _mask_prompt(mask: Mask, height: int, width: int) -> MaskPrompt:
    array = np.asarray(mask)
    if array.shape != (height, width) or array.dtype != np.bool_:
        raise EmptyRegion(
            f"a mask of shape {array.shape} and type {array.dtype}: give bool of the frame's size, "
            f"({height}, {width})"
        )
    if not array.any():
        raise EmptyRegion("a mask with no pixel set: mark at least one")
    return MaskPrompt(array)


def _point_prompt(region: Region, height: int, width: int) -> PointPrompt:
    points = np.asarray(region.points, np.float32)
    if points.ndim != 2 or points.shape[1:] != (2,) or not 1 <= len(points) <= MAX_POINTS:
        raise EmptyRegion(f"points of shape {points.shape}: give 1 to {MAX_POINTS} rows of (x, y)")
    labels = np.ones(len(points)) if region.point_labels is None else np.asarray(region.point_labels)
    if labels.shape != (len(points),) or not np.isin(labels, (0, 1)).all():
        raise EmptyRegion(f"point labels {labels.tolist()}: give one per point, 1 on the object or 0 off it")
    inside = (points >= 0).all(1) & (points[:, 0] < width) & (points[:, 1] < height)
    if not inside.all():  # also catches NaN, which compares false
        x, y = points[~inside][0]
        raise EmptyRegion(f"point ({x:g}, {y:g}) is outside the {width}x{height} frame: give points on it")
    return PointPrompt(points, labels.astype(np.int32))
