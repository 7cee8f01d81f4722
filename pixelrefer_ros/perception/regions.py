# SPDX-License-Identifier: Apache-2.0
"""Is this a region of that image? Asked at once, long before the tracker needs to know."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from pixelrefer_ros.errors import EmptyRegion
from pixelrefer_ros.types import MAX_POINTS, Box, Frame, Mask, Region


def check_region(region: Region, frame: Frame) -> None:
    """Refuse a region that does not point at anything in ``frame``.

    Raises:
        EmptyRegion: it is not exactly one of box, points and mask, or it covers no pixel of the frame.
    """
    given = [name for name in ("box", "points", "mask") if getattr(region, name) is not None]
    if len(given) != 1:
        found = "none of them" if not given else " and ".join(given)
        raise EmptyRegion(f"a region is exactly one of box, points and mask; this one has {found}")
    if region.box is not None:
        _check_box(region.box, frame)
    if region.points is not None:
        _check_points(region.points, region.point_labels, frame, corrects=region.object_id != 0)
    if region.mask is not None:
        _check_mask(region.mask, frame)


def _size(frame: Frame) -> str:
    return f"{frame.rgb.shape[1]}x{frame.rgb.shape[0]} image"


def _refuse(what: str, frame: Frame, remedy: str) -> NoReturn:
    raise EmptyRegion(f"{what} of the {_size(frame)}: {remedy}")


def _check_box(box: Box, frame: Frame) -> None:
    height, width = frame.rgb.shape[:2]
    text = f"box x={box.x} y={box.y} width={box.width} height={box.height}"
    if box.width <= 0 or box.height <= 0:
        raise EmptyRegion(f"{text} has no area: give a width and a height of at least one pixel")
    if box.x >= width or box.y >= height or box.x + box.width <= 0 or box.y + box.height <= 0:
        _refuse(f"{text} lies outside", frame, "give pixels of this image")


def _check_points(
    points: NDArray[np.float32], labels: NDArray[np.int32] | None, frame: Frame, *, corrects: bool
) -> None:
    height, width = frame.rgb.shape[:2]
    if points.ndim != 2 or points.shape[1:] != (2,) or not 1 <= len(points) <= MAX_POINTS:
        raise EmptyRegion(f"points have shape {points.shape}: give 1 to {MAX_POINTS} points (x, y)")
    if labels is None or labels.shape != (len(points),):
        count = 0 if labels is None else len(labels)
        raise EmptyRegion(f"{len(points)} points have {count} labels: give one label per point")
    if not np.isin(labels, (0, 1)).all():
        raise EmptyRegion(f"point labels are {labels.tolist()}: each is 1 (on the object) or 0 (off it)")
    if not corrects and not (labels == 1).any():  # a correction may say only what it is not
        raise EmptyRegion("no point is on the object: give at least one point with label 1")
    inside = (points >= 0).all(axis=1) & (points < (width, height)).all(axis=1)  # NaN is not inside
    if not inside.all():
        x, y = points[~inside][0]
        _refuse(f"point x={x:g} y={y:g} lies outside", frame, "give pixels of this image")


def _check_mask(mask: Mask, frame: Frame) -> None:
    if mask.shape != frame.rgb.shape[:2]:
        size = "x".join(map(str, mask.shape[::-1]))
        raise EmptyRegion(f"the mask is {size}, the image {_size(frame)}: give a mask of the image's size")
    if not mask.any():
        raise EmptyRegion("the mask is empty: set at least one pixel")
