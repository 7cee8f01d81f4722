# SPDX-License-Identifier: Apache-2.0
"""How a user would point at an object whose mask is known."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from pixelrefer_ros.types import Box, Mask, Region

Prompt = Literal["box", "point"]


def region_of(mask: Mask, object_id: int, prompt: Prompt) -> Region:
    """What a user would give of an object: its tight box, or the point furthest inside it.

    Args:
        mask: (H, W) bool, of what is seen of it; something must be.
        object_id: of the region; 0 starts a new object.
        prompt: which of both.
    """
    if prompt == "box":
        return Region(box=box_of(mask), object_id=object_id)
    inside = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(int(inside.argmax()), mask.shape)
    point = np.array([[column, row]], np.float32)
    return Region(points=point, point_labels=np.ones(1, np.int32), object_id=object_id)


def box_of(mask: Mask) -> Box:
    """The tight box of a mask that is not empty."""
    rows, columns = np.nonzero(mask)
    x, y = int(columns.min()), int(rows.min())
    return Box(x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y)
