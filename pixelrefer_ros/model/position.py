# SPDX-License-Identifier: Apache-2.0
"""Where in the frame each patch of a crop lies (paper Eq. 4)."""

from __future__ import annotations

import torch

from pixelrefer_ros.model.config import PositionReading


def patch_positions(
    grid: tuple[int, int],
    box: tuple[int, int, int, int],
    frame_size: tuple[int, int],
    reading: PositionReading,
    *,
    device: torch.device | None = None,
) -> torch.Tensor:
    """Coordinates of the patches of a crop in its frame.

    Args:
        grid: patches (down h', across w').
        box: (top, left, bottom - 1, right - 1) of the crop in the frame, px.
        frame_size: (height H, width W) of the frame, px.
        reading: "paper" is Eq. 4. "released" is what the authors' code computes: the box, stored with the
            rows first, is read as if the columns came first, so that column coordinates run over the rows'
            extent and row coordinates over the columns'. Released checkpoints were trained with it.
        device: where the result lies.

    Returns:
        (h' w', 2) float32 (column, row), in [0, 1] for the paper's reading, patches in row-major order.
    """
    rows, columns = grid
    height, width = frame_size
    top, left, bottom, right = box
    if reading == "paper":
        x0, y0, x1, y1 = left, top, right, bottom
    else:
        x0, y0, x1, y1 = top, left, bottom, right
    across = torch.arange(columns, dtype=torch.float32, device=device) / columns
    down = torch.arange(rows, dtype=torch.float32, device=device) / rows
    # A frame of one pixel's width has one coordinate, 0: max() keeps the division defined.
    x = (across * (x1 - x0) + x0) / max(width - 1, 1)
    y = (down * (y1 - y0) + y0) / max(height - 1, 1)
    return torch.stack((x.repeat(rows), y.repeat_interleave(columns)), dim=-1)
