# SPDX-License-Identifier: Apache-2.0
"""Masks as annotation files hold them: COCO run lengths, compressed or not, and polygons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pixelrefer_ros.errors import ImageError
from pixelrefer_ros.images import MAX_PIXELS
from pixelrefer_ros.types import Mask


def mask_of(segmentation: Any, size: tuple[int, int] | None = None) -> Mask:
    """A mask from one ``segmentation`` of an annotation file.

    Args:
        segmentation: ``{"size": [height, width], "counts": ...}`` with counts as a list or as COCO's
            compressed text, or polygons ``[[x, y, x, y, ...], ...]`` (one polygon may stand by itself).
        size: (height, width) of the picture, px; polygons need it.

    Returns:
        (H, W) bool.

    Raises:
        ImageError: neither of these, or with numbers that cannot be.
    """
    if isinstance(segmentation, dict):
        found = decode_rle(segmentation)
        _same_size((found.shape[0], found.shape[1]), size)
        return found
    if isinstance(segmentation, list) and segmentation:
        if size is None:
            raise ImageError("polygons need the picture's height and width")
        return _filled(segmentation, size)
    raise ImageError(
        f"a mask is run lengths or polygons, not {type(segmentation).__name__} {segmentation!r:.60}"
    )


def is_empty(segmentation: Any, size: tuple[int, int] | None = None) -> bool:
    """Whether a mask has no pixel. Of run lengths this is told without filling it: long videos have many.

    Args:
        segmentation: see `mask_of`; None and an empty list of polygons are empty masks.
        size: see `mask_of`.

    Raises:
        ImageError: likewise.
    """
    if segmentation is None or segmentation == []:  # as annotation tools write an object that is hidden
        return True
    if not isinstance(segmentation, dict):
        return not mask_of(segmentation, size).any()
    runs, own = _checked(segmentation)
    _same_size(own, size)
    return not any(runs[1::2])


def decode_rle(rle: dict[str, Any]) -> Mask:
    """Run lengths to a mask; runs go down the columns, and the first one is off the object.

    Raises:
        ImageError: a part is missing, or the runs do not fill the size.
    """
    runs, (height, width) = _checked(rle)
    values = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def _checked(rle: dict[str, Any]) -> tuple[list[int], tuple[int, int]]:
    """The runs, and height and width, px."""
    size, counts = rle.get("size"), rle.get("counts")
    if not (
        isinstance(size, list | tuple) and len(size) == 2 and all(_whole(side) and side > 0 for side in size)
    ):
        raise ImageError(f"the run lengths' size is {size!r}: it must be [height, width]")
    height, width = size
    if height * width > MAX_PIXELS:
        raise ImageError(f"the run lengths are of {height} x {width} px; at most {MAX_PIXELS} px are read")
    if isinstance(counts, bytes):
        counts = counts.decode("ascii", "replace")
    runs = _runs(counts, height * width) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(_whole(run) and 0 <= run <= height * width for run in runs):
        raise ImageError("the run lengths' counts are neither text nor a list of numbers that fit the size")
    if sum(runs) != height * width:
        raise ImageError(f"the run lengths fill {sum(runs)} px of {height} x {width}")
    return runs, (height, width)


def _same_size(own: tuple[int, int], size: tuple[int, int] | None) -> None:
    if size is not None and own != size:
        raise ImageError(f"the mask is of {list(own)}, the picture of {list(size)}")


def encode_rle(mask: Mask, *, compressed: bool = True) -> dict[str, Any]:
    """A mask as COCO run lengths, for writing annotation files.

    Args:
        mask: (H, W) bool.
        compressed: text instead of a list.
    """
    flat = np.asarray(mask, bool).T.ravel()
    turns = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate(([0], turns, [flat.size]))).tolist()
    if flat.size and flat[0]:
        runs = [0, *runs]
    size = [int(side) for side in mask.shape]
    return {"size": size, "counts": _text(runs) if compressed else runs}


def _runs(text: str, most: int) -> list[int]:
    """COCO's text: each run less the one two before it, in groups of five bits from the lowest, 48 added."""
    runs: list[int] = []
    value = place = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or place > 6:
            raise ImageError(f"the run lengths' text has {character!r} where none can be")
        value |= (bits & 31) << 5 * place
        place += 1
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << 5 * place
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        if not 0 <= runs[-1] <= most:
            raise ImageError(f"the run lengths' text has a run of {runs[-1]} px")
        value = place = 0
    if place:
        raise ImageError("the run lengths' text ends within a number")
    return runs


def _text(runs: Sequence[int]) -> str:
    text = []
    for number, run in enumerate(runs):
        value = run - runs[number - 2] if number > 2 else run
        while True:
            bits = value & 31
            value >>= 5
            last = value == (-1 if bits & 16 else 0)
            text.append(chr(48 + bits + (0 if last else 32)))
            if last:
                break
    return "".join(text)


def _filled(polygons: list[Any], size: tuple[int, int]) -> Mask:
    own = [polygons] if all(isinstance(value, int | float) for value in polygons) else polygons
    filled = np.zeros(size, bool)
    for polygon in own:
        if (
            not isinstance(polygon, list)
            or len(polygon) < 6
            or len(polygon) % 2
            or not all(isinstance(value, int | float) and abs(value) < 1 << 20 for value in polygon)
        ):
            raise ImageError(f"a polygon needs 3 or more corners [x, y, x, y, ...]; one is {polygon!r:.60}")
        filled |= _inside(np.asarray(polygon, np.float64).reshape(-1, 2), size)
    if not filled.any():  # thinner than a pixel: what it touches
        outlines = [np.floor(np.asarray(polygon).reshape(-1, 2)).astype(np.int32) for polygon in own]
        return cv2.polylines(np.zeros(size, np.uint8), outlines, isClosed=True, color=1) > 0
    return filled


def _inside(corners: NDArray[np.float64], size: tuple[int, int]) -> Mask:
    """Pixels whose centres lie within a polygon: an odd number of its edges is left of them."""
    height, width = size
    x0, y0 = corners.T
    x1, y1 = np.roll(corners, -1, axis=0).T
    centres = np.arange(height) + 0.5
    rows, edges = np.nonzero((y0 <= centres[:, None]) != (y1 <= centres[:, None]))
    share = (centres[rows] - y0[edges]) / (y1[edges] - y0[edges])
    crossed = x0[edges] + share * (x1[edges] - x0[edges])
    turns = np.zeros((height, width + 1), np.int32)
    np.add.at(turns, (rows, np.clip(np.ceil(crossed - 0.5), 0, width).astype(int)), 1)
    return np.asarray(turns.cumsum(axis=1)[:, :width] % 2 == 1)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
