# SPDX-License-Identifier: Apache-2.0
"""From any number of patch features to exactly n object tokens (paper Sec. 4.2.1, aggregation)."""

from __future__ import annotations

import torch
from torch.nn import functional

ITERATIONS = 3
CONVERGED = 1e-6


def aggregate(features: torch.Tensor, count: int) -> torch.Tensor:
    """Exactly ``count`` tokens: the features with zero rows after them, or their k-means centroids.

    Args:
        features: (N, D), N >= 1.
        count: n, the tokens wanted.

    Returns:
        (n, D) of the same dtype.
    """
    if features.shape[0] <= count:
        return functional.pad(features, (0, 0, 0, count - features.shape[0]))
    # Means of bfloat16 members would lose most of what the mean gains.
    return kmeans(features.float(), count).to(features.dtype)


def kmeans(features: torch.Tensor, count: int) -> torch.Tensor:
    """Three rounds of Lloyd's algorithm, the same on every run and device.

    The paper draws the first centroids at random; here they are the members floor(i N / n), so that the
    same object gives the same tokens. A cluster that empties keeps its centroid. Centroids that moved less
    than 1e-6 are final. The rounds are unrolled and free of branches, so that the function can be traced.

    Args:
        features: (N, D) float32, N >= n.
        count: n, the centroids wanted.

    Returns:
        (n, D) float32.
    """
    members = features.shape[0]
    centroids = features[torch.arange(count, device=features.device) * members // count]
    moving = torch.ones((), dtype=torch.bool, device=features.device)
    for _ in range(ITERATIONS):
        # Differences, not |x|^2 - 2xc + |c|^2, whose rounding breaks ties between near duplicates.
        distances = torch.cdist(features, centroids, compute_mode="donot_use_mm_for_euclid_dist")
        belongs = functional.one_hot(distances.argmin(dim=1), count).to(features.dtype)
        sizes = belongs.sum(dim=0)[:, None]
        # A matrix product sums in a fixed order; scattered additions on a GPU do not.
        means = (belongs.T @ features) / sizes.clamp(min=1)
        updated = torch.where(moving & (sizes > 0), means, centroids)
        moving = moving & ((updated - centroids).norm() >= CONVERGED)
        centroids = updated
    return centroids
