# SPDX-License-Identifier: Apache-2.0
"""Parts of a mask that are not of its object: specks somewhere else in the picture.

SAM 2 decodes now and then a few pixels of something that looks like the object. They hardly count in the
area of a mask, but its box reaches to them: a crop of the object then shows half of the picture.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pixelrefer_ros.tracking.apart import NOT_THERE


def without_specks(logits: NDArray[np.float32], smallest: float) -> NDArray[np.float32]:
    """Takes small parts out of a mask.

    Args:
        logits: (h, w) float32, the decoder's mask; left as it is.
        smallest: parts with less than this share of the largest part's cells are taken out, from 0 (none) to
            1. Cells that touch, be it at a corner, are of one part.

    Returns:
        (h, w) float32: `NOT_THERE` where a part was taken out. The same array if none was.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats((logits > 0).astype(np.uint8))
    cells = stats[:, cv2.CC_STAT_AREA]  # label 0 is what is not the object
    if count <= 2 or not (specks := cells < smallest * cells[1:].max()).any():
        return logits
    specks[0] = False
    return np.where(specks[labels], np.float32(NOT_THERE), logits)
