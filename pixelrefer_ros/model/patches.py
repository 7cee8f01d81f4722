# SPDX-License-Identifier: Apache-2.0
"""Pictures as the vision encoder takes them: rows of flattened patches."""

from __future__ import annotations

import numpy as np
import torch

from pixelrefer_ros.model.config import PATCH
from pixelrefer_ros.types import RgbImage


def patchify(image: RgbImage, *, device: torch.device | None = None) -> torch.Tensor:
    """Cuts a picture into patches.

    Args:
        image: (14 h, 14 w, 3) uint8 RGB.
        device: where the result lies; the bytes travel there, not the floats.

    Returns:
        (h w, 588) float32 in [-1, 1]: patches in row-major order, each flattened (channel, row, column).
    """
    rows, columns = image.shape[0] // PATCH, image.shape[1] // PATCH
    pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device)
    cells = pixels.reshape(rows, PATCH, columns, PATCH, 3).permute(0, 2, 4, 1, 3)
    flat = cells.reshape(rows * columns, 3 * PATCH * PATCH).to(torch.float32)
    return (flat / 255 - 0.5) / 0.5
