# SPDX-License-Identifier: Apache-2.0
"""How well two masks agree: in their pixels (J) and along their edges (F), as DAVIS defines them."""

from __future__ import annotations

import math

import cv2
import numpy as np

from pixelrefer_ros.types import Mask

BOUNDARY_TOLERANCE = 0.008
"""Of the frame's diagonal: edges that near to each other agree (DAVIS)."""


def jaccard(found: Mask, truth: Mask) -> float:
    """J: intersection over union of two (H, W) bool masks; 1 where both are empty."""
    union = np.count_nonzero(found | truth)
    return float(np.count_nonzero(found & truth) / union) if union else 1.0


def boundary_f(found: Mask, truth: Mask) -> float:
    """F: harmonic mean of how much of the found edge is near the true one, and the other way round.

    Args:
        found: (H, W) bool.
        truth: (H, W) bool.

    Returns:
        In [0, 1]; 1 where neither mask has an edge, 0 where only one has.
    """
    edge, true_edge = edges(found), edges(truth)
    if not edge.any() or not true_edge.any():
        return 1.0 if edge.any() == true_edge.any() else 0.0
    reach = math.ceil(BOUNDARY_TOLERANCE * math.hypot(*found.shape))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    near, near_truth = (cv2.dilate(e.astype(np.uint8), disk) > 0 for e in (edge, true_edge))
    precision = np.count_nonzero(edge & near_truth) / np.count_nonzero(edge)
    recall = np.count_nonzero(true_edge & near) / np.count_nonzero(true_edge)
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def edges(mask: Mask) -> Mask:
    """(H, W) bool: pixels that differ from the one to the right, below, or both; none outside the frame."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here = padded[:-1, :-1]
    return (here != padded[:-1, 1:]) | (here != padded[1:, :-1]) | (here != padded[1:, 1:])
