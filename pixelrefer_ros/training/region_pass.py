# SPDX-License-Identifier: Apache-2.0
"""T_R of many objects at once (paper Sec. 4.2.1, aggregation): the same tokens as one by one.

On a GPU the k-means of some hundred objects, one after the other, would mostly be waiting between small
operations.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pixelrefer_ros.model import KMEANS_CONVERGED, KMEANS_ITERATIONS


def aggregate_all(features: Tensor, lengths: Tensor, count: int) -> Tensor:
    """Exactly ``count`` tokens of every object: its features with zero rows after them, or their centroids.

    Args:
        features: (V, N, D) float32, zero beyond each object's own.
        lengths: (V,) features of each object, at least 1.
        count: n.

    Returns:
        (V, n, D).
    """
    objects, most, width = features.shape
    if most < count:
        features = functional.pad(features, (0, 0, 0, count - most))
    own = torch.arange(features.shape[1], device=features.device)[None] < lengths[:, None]
    first = torch.arange(count, device=features.device)[None] * lengths[:, None] // count
    centroids = features.gather(1, first[..., None].expand(-1, -1, width))
    moving = torch.ones(objects, dtype=torch.bool, device=features.device)
    for _ in range(KMEANS_ITERATIONS):
        with torch.no_grad():  # who belongs where has no gradient
            distances = torch.cdist(features, centroids, compute_mode="donot_use_mm_for_euclid_dist")
            belongs = functional.one_hot(distances.argmin(dim=2), count) * own[..., None]
            belongs = belongs.to(features.dtype)
            sizes = belongs.sum(dim=1)[..., None]
        means = (belongs.transpose(1, 2) @ features) / sizes.clamp(min=1)
        updated = torch.where(moving[:, None, None] & (sizes > 0), means, centroids)
        with torch.no_grad():
            moving = moving & ((updated - centroids).flatten(1).norm(dim=1) >= KMEANS_CONVERGED)
        centroids = updated
    few = (lengths <= count)[:, None, None]
    return torch.where(few, features[:, :count], centroids)
