# SPDX-License-Identifier: Apache-2.0
"""Masks: from the decoder's small logits to the frame, and from a region to the model."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pixelrefer_ros.types import Box, Mask


def mask_box(mask: Mask) -> Box | None:
    """Return the tight box around a mask of (H, W) bool; None when the mask is empty."""
    rows = np.flatnonzero(mask.any(1))
    if not len(rows):
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(0))
    x, y = int(columns[0]), int(rows[0])
    return Box(x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1)


def mask_at_frame_size(logits: NDArray[np.float32], height: int, width: int) -> tuple[Mask, Box | None, int]:
    """Enlarge mask logits to the frame and cut them at 0.

    Bilinear with pixel centres at half coordinates, as ``interpolate(align_corners=False)``. Only the
    part of the frame that positive logits can reach is computed: an output pixel is positive only if
    one of its four neighbours is.

    Args:
        logits: (h, w) float32, the decoder's mask.
        height: of the frame.
        width: of the frame.

    Returns:
        The (height, width) bool mask, its tight box and its area in pixels.
    """
    mask = np.zeros((height, width), np.bool_)
    positive = mask_box(logits > 0)
    if positive is None:
        return mask, None, 0
    rows, row_low, row_high, row_weight = _taps(positive.y, positive.height, logits.shape[0], height)
    columns, col_low, col_high, col_weight = _taps(positive.x, positive.width, logits.shape[1], width)
    if (rows.stop - rows.start) * (columns.stop - columns.start) > height * width // 4:
        full = F.interpolate(torch.from_numpy(logits)[None, None], size=(height, width), mode="bilinear")
        mask = (full[0, 0] > 0).numpy()  # one pass of torch beats four of numpy on a large part
        return mask, mask_box(mask), int(np.count_nonzero(mask))
    across = logits[:, col_low] * (1 - col_weight) + logits[:, col_high] * col_weight
    patch = across[row_low]
    patch += (across[row_high] - patch) * row_weight[:, None]
    mask[rows, columns] = patch > 0
    inner = mask_box(mask[rows, columns])
    if inner is None:
        return mask, None, 0
    box = Box(inner.x + columns.start, inner.y + rows.start, inner.width, inner.height)
    return mask, box, int(np.count_nonzero(mask[rows, columns]))


def _taps(
    first: int, count: int, size: int, full: int
) -> tuple[slice, NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Output range, neighbours and weights on one axis for source cells [first, first + count)."""
    scale = full / size
    # Output pixel i looks at source (i + 0.5) / scale - 0.5: those within one cell of the range count.
    start = max(int(np.floor((first - 0.5) * scale - 0.5)), 0)
    stop = min(int(np.ceil((first + count + 0.5) * scale - 0.5)) + 1, full)
    source = np.maximum((np.arange(start, stop) + 0.5) / scale - 0.5, 0)
    low = np.minimum(source.astype(np.int64), size - 1)
    high = np.minimum(low + 1, size - 1)
    return slice(start, stop), low, high, (source - low).astype(np.float32)


def mask_for_model(mask: Mask, image_size: int) -> torch.Tensor:
    """Scale a region's mask to the model's square input.

    Half-covered pixels belong to the object, as in SAM 2. A mask so thin that no pixel is half
    covered keeps those covered most, so that a region that covers a pixel never becomes nothing.

    Args:
        mask: (H, W) bool with at least one pixel.
        image_size: side of the model's input, pixels.

    Returns:
        (1, image_size, image_size) float32 of 0 and 1.
    """
    covered = F.interpolate(
        torch.from_numpy(mask.astype(np.float32))[None, None],
        size=(image_size, image_size),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )[0]
    return (covered >= min(0.5, float(covered.max()))).float()
