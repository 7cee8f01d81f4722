# SPDX-License-Identifier: Apache-2.0
"""Scale-adaptive object crops: what of the frame the vision encoder looks at (paper Sec. 4.2.1, SAOT)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pixelrefer_ros.errors import EmptyRegion, ImageError
from pixelrefer_ros.model.config import PATCH
from pixelrefer_ros.types import Mask, RgbImage

PADDING = 2 * PATCH
"""Pixels of surroundings kept on each side of the mask's box."""
CONTEXT_SIDE = 224
"""Side of the local context picture, px: 16 x 16 patches."""
GLOBAL_SIDE = 336
"""Side of the whole-frame picture, px: 24 x 24 patches."""

_LARGE_PATCHES = 50  # an object of more patches than this is shrunk; the paper's Eq. 2 has 100


@dataclass(frozen=True, eq=False, slots=True)
class ObjectCrop:
    """One object in one frame, ready for the vision encoder.

    Attributes:
        image: (14 h', 14 w', 3) uint8 RGB, the padded and scaled crop.
        grid_mask: (h', w') float32, how much of each patch the mask covers; the object's are > 0,
            and at least one is.
        box: (top, left, bottom - 1, right - 1) of the padded crop in the frame, px.
        context: (224, 224, 3) uint8 RGB, the padded crop before scaling, aspect ignored.
        frame_size: (height, width) of the frame, px.
    """

    image: RgbImage
    grid_mask: NDArray[np.float32]
    box: tuple[int, int, int, int]
    context: RgbImage
    frame_size: tuple[int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (down, across)."""
        return (self.grid_mask.shape[0], self.grid_mask.shape[1])


def check_image(rgb: RgbImage) -> None:
    """Refuses anything but an RGB picture with pixels.

    Raises:
        ImageError: not (height, width, 3) uint8, or without pixels.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ImageError(
            f"the image is {rgb.dtype} of shape {list(rgb.shape)}; it must be uint8 (height, width, 3)"
        )
    if rgb.size == 0:
        raise ImageError(f"the image has shape {list(rgb.shape)}: it has no pixels")


def global_image(rgb: RgbImage) -> RgbImage:
    """The whole frame for the global features: (336, 336, 3), resized by area, aspect ignored.

    Raises:
        ImageError: not an RGB picture.
    """
    check_image(rgb)
    return _resize(rgb, GLOBAL_SIDE, GLOBAL_SIDE, cv2.INTER_AREA)


def crop_object(rgb: RgbImage, mask: Mask, *, mask_num: int, patch_budget: int) -> ObjectCrop:
    """Cuts an object out and scales it so that it covers enough, but not too many, patches.

    Args:
        rgb: (H, W, 3) uint8 RGB.
        mask: (H, W), not 0 on the object.
        mask_num: n, the object tokens of a region.
        patch_budget: at most so many patches in the crop. The published rule has no bound, and a thin
            object's crop grows to tens of thousands; below the bound the result is the published one.

    Raises:
        ImageError: not an RGB picture, or the mask has another size.
        EmptyRegion: the mask has no pixel.
    """
    check_image(rgb)
    if mask.shape != rgb.shape[:2]:
        raise ImageError(f"the mask has shape {list(mask.shape)}; the image needs {list(rgb.shape[:2])}")
    covered = mask != 0
    area = int(np.count_nonzero(covered))
    if area == 0:
        raise EmptyRegion("the mask has no pixel on the object: draw the region again")
    top, left, bottom, right = _padded_box(covered)
    crop = rgb[top:bottom, left:right]
    mask_crop = np.ascontiguousarray(covered[top:bottom, left:right], dtype=np.float32)

    height, width = crop.shape[:2]
    rows, columns = _patch_grid(height, width, _scale(area, mask_num))
    bounded = rows * columns > patch_budget
    if bounded:
        rows, columns = _bounded_grid(height, width, rows, columns, patch_budget)
    grows = rows * PATCH >= height or columns * PATCH >= width
    return ObjectCrop(
        image=_resize(crop, rows * PATCH, columns * PATCH, cv2.INTER_LINEAR if grows else cv2.INTER_AREA),
        grid_mask=_grid_mask(mask_crop, rows, columns, published=not bounded),
        box=(top, left, bottom - 1, right - 1),
        context=_resize(crop, CONTEXT_SIDE, CONTEXT_SIDE, cv2.INTER_AREA),
        frame_size=(rgb.shape[0], rgb.shape[1]),
    )


def _padded_box(mask: Mask) -> tuple[int, int, int, int]:
    """(top, left, bottom, right), half-open, of a mask that is not empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    return (
        max(int(rows[0]) - PADDING, 0),
        max(int(columns[0]) - PADDING, 0),
        min(int(rows[-1]) + 1 + PADDING, mask.shape[0]),
        min(int(columns[-1]) + 1 + PADDING, mask.shape[1]),
    )


def _scale(area: int, mask_num: int) -> float:
    """The published scale: a small object grows to mask_num patches, a large one shrinks to 50 (Eq. 2)."""
    patch_area = PATCH * PATCH
    scale = math.ceil(math.sqrt(patch_area * mask_num / area))
    if scale == 1 and area / patch_area > _LARGE_PATCHES:
        return 1 / math.sqrt(area / patch_area / _LARGE_PATCHES)
    return float(scale)


def _patch_grid(height: int, width: int, scale: float) -> tuple[int, int]:
    return math.ceil(height * scale / PATCH), math.ceil(width * scale / PATCH)


def _bounded_grid(height: int, width: int, rows: int, columns: int, budget: int) -> tuple[int, int]:
    """The largest grid of about the crop's aspect within the budget."""
    shrink = math.sqrt(budget / (rows * columns))
    rows = min(max(int(rows * shrink), 1), budget)
    columns = min(max(int(columns * shrink), 1), budget)
    # One side may have been lifted to 1: the other gives way.
    if rows * columns > budget:
        rows, columns = (rows, budget // rows) if rows < columns else (budget // columns, columns)
    return rows, columns


def _grid_mask(
    mask_crop: NDArray[np.float32], rows: int, columns: int, *, published: bool
) -> NDArray[np.float32]:
    """The mask at the resolution of the patch grid, (rows, columns) float32.

    The published way is a bilinear resize, which samples a few pixels per patch when it shrinks: a thin
    object falls between the samples. Where it would be lost, or where a bounded crop (no longer the published
    one anyway) shrinks the mask, each patch gets the share of its pixels that the mask covers.
    """
    if published or rows > mask_crop.shape[0] or columns > mask_crop.shape[1]:
        sampled = cv2.resize(mask_crop, (columns, rows), interpolation=cv2.INTER_LINEAR)
        if (sampled > 0).any():
            return np.asarray(sampled, dtype=np.float32)
    height, width = mask_crop.shape
    row_of = np.arange(height) * rows // height
    column_of = np.arange(width) * columns // width
    cells = (row_of[:, None] * columns + column_of[None, :]).ravel()
    pixels = np.bincount(cells, minlength=rows * columns)
    covered = np.bincount(cells, weights=mask_crop.ravel(), minlength=rows * columns)
    return (covered / np.maximum(pixels, 1)).reshape(rows, columns).astype(np.float32)


def _resize(image: RgbImage, height: int, width: int, interpolation: int) -> RgbImage:
    resized = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=interpolation)
    return np.asarray(resized, dtype=np.uint8)
