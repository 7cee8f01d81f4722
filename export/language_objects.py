# SPDX-License-Identifier: Apache-2.0
"""The object encoder as a graph: position, k-means, both infusions and the projection, for K objects."""

from __future__ import annotations

import torch
from pixelrefer_ros.export.counting import running_count, running_sum
from pixelrefer_ros.export.language_vision import locate
from pixelrefer_ros.export.operators import Dense, attend
from torch import nn

from pixelrefer_ros.model import ObjectEncoder, PixelReferConfig
from pixelrefer_ros.model.kmeans import CONVERGED, ITERATIONS
from pixelrefer_ros.model.object_encoder import HEADS

_TOGETHER = 4  # centroids compared at once: bounds the memory of the differences to (P, 4, D_v)


class ObjectsGraph(nn.Module):
    """`ObjectEncoder` without sizes that depend on the data.

    Which patches show the object is a mask, and "the j-th patch of object k" a row of zeros with a one in it:
    a product with it is that patch exactly, or zeros where there are fewer patches (the padding of N <= n).

    Args:
        encoder: the object encoder; its weights are shared.
        config: of the model.
        opset: which operators to use.
    """

    def __init__(self, encoder: ObjectEncoder, config: PixelReferConfig, opset: int) -> None:
        super().__init__()
        self.count = config.mask_num
        self.reading = config.position_reading
        self.position = Dense.of(encoder.pos_linear)
        self.local = Infusion(encoder.ln_local, encoder.fusion_attention_local, opset)
        self.whole = Infusion(encoder.ln_global, encoder.fusion_attention_global, opset)
        first, self.activation, second = encoder.feat_linear
        assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)  # noqa: S101 (for the type checker)
        self.first, self.second = Dense.of(first), Dense.of(second)

    def forward(
        self,
        features: torch.Tensor,
        chosen: torch.Tensor,
        grids: torch.Tensor,
        boxes: torch.Tensor,
        frame_sizes: torch.Tensor,
        local: torch.Tensor,
        whole: torch.Tensor,
        frame_of: torch.Tensor,
    ) -> torch.Tensor:
        """Object tokens.

        Args:
            features: (P, D_v), the K objects' crops one after the other.
            chosen: (P,) bool, the patches that show their object.
            grids: (K, 2) int64, patches (down, across) of each crop.
            boxes: (K, 4) int64, (top, left, bottom - 1, right - 1) of each crop in its frame, px.
            frame_sizes: (K, 2) int64, (height, width) of each object's frame, px.
            local: (K, 256, D_v), features of each object's surroundings.
            whole: (F, 576, D_v), features of the frames.
            frame_of: (K,) int64, which of those frames each object is in.

        Returns:
            (K, n, D).
        """
        owner, row, column = locate(features.shape[0], grids)
        positions = self._positions(owner, row, column, grids, boxes, frame_sizes)
        placed = features + self.position(positions.to(features.dtype))
        tokens = self._aggregate(placed.float(), chosen, owner, grids.shape[0]).to(features.dtype)
        tokens = self.local(tokens, local)
        tokens = self.whole(tokens, whole, frame_of)
        projected: torch.Tensor = self.second(self.activation(self.first(tokens)))
        return projected

    def _positions(
        self,
        owner: torch.Tensor,
        row: torch.Tensor,
        column: torch.Tensor,
        grids: torch.Tensor,
        boxes: torch.Tensor,
        frame_sizes: torch.Tensor,
    ) -> torch.Tensor:
        """(P, 2) float32; see `pixelrefer_ros.model.position`, whose order of operations this keeps."""
        top, left, bottom, right = boxes.float().index_select(0, owner).unbind(-1)
        down, across = grids.float().index_select(0, owner).unbind(-1)
        height, width = (frame_sizes - 1).float().clamp(min=1).index_select(0, owner).unbind(-1)
        x0, y0, x1, y1 = (left, top, right, bottom) if self.reading == "paper" else (top, left, bottom, right)
        x = (column.float() / across * (x1 - x0) + x0) / width
        y = (row.float() / down * (y1 - y0) + y0) / height
        return torch.stack((x, y), dim=-1)

    def _aggregate(
        self, features: torch.Tensor, chosen: torch.Tensor, owner: torch.Tensor, objects: int
    ) -> torch.Tensor:
        """T_R of every object, (K, n, D_v) float32; see `pixelrefer_ros.model.kmeans`."""
        ids = torch.arange(objects, dtype=torch.long, device=owner.device)
        slots = torch.arange(self.count, dtype=torch.long, device=owner.device)
        rank = running_count(chosen) - 1
        members = ((owner[None] == ids[:, None]) & chosen[None]).long().sum(dim=1)
        before = (running_sum(members) - members)[:, None]
        members = members[:, None]
        spread = torch.div(slots * members, self.count, rounding_mode="trunc")
        wanted = before + torch.where(members > self.count, spread, slots)
        # Beyond the object's own members there is nothing: the next object's patch must not be taken.
        exists = (members > self.count) | (slots < members)
        picked = (rank == wanted[:, :, None]) & chosen & exists[:, :, None]
        start = (picked.to(features.dtype).flatten(0, 1) @ features).unflatten(0, (objects, self.count))
        centroids = start
        moving = torch.ones_like(members, dtype=torch.bool)[:, :, None]
        for _ in range(ITERATIONS):
            nearest = self._distances(features, centroids, owner).argmin(dim=1)
            belongs = (owner[:, None] == ids)[:, :, None] & (nearest[:, None] == slots)[:, None]
            weights = (belongs & chosen[:, None, None]).to(features.dtype).flatten(1).t()
            sizes = weights.sum(dim=1).unflatten(0, (objects, self.count))[:, :, None]
            means = (weights @ features).unflatten(0, (objects, self.count)) / sizes.clamp(min=1)
            updated = torch.where(moving & (sizes > 0), means, centroids)
            change = (updated - centroids).square().sum(dim=(1, 2), keepdim=True)
            moving = moving & (change >= CONVERGED**2)
            centroids = updated
        return torch.where(members[:, :, None] > self.count, centroids, start)

    def _distances(
        self, features: torch.Tensor, centroids: torch.Tensor, owner: torch.Tensor
    ) -> torch.Tensor:
        """Squared distances of each patch to the centroids of its own object, (P, n).

        Differences, not |x|^2 - 2xc + |c|^2, whose rounding breaks ties between near duplicates.
        """
        parts = []
        for block in centroids.split(_TOGETHER, dim=1):
            parts.append((features[:, None] - block.index_select(0, owner)).square().sum(dim=-1))
        return torch.cat(parts, dim=1)


class Infusion(nn.Module):
    """tokens + attention(query = norm(tokens), key = value = surroundings) (paper, Algorithm 1)."""

    def __init__(self, norm: nn.LayerNorm, attention: nn.MultiheadAttention, opset: int) -> None:
        super().__init__()
        self.norm = norm
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        self.query, self.key, self.value = (Dense(*pair) for pair in zip(weights, biases, strict=True))
        self.out = Dense.of(attention.out_proj)
        self.opset = opset

    def forward(
        self, tokens: torch.Tensor, surroundings: torch.Tensor, which: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Tokens (K, n, D_v), surroundings (F, L, D_v), which of them each object has (K,)."""
        key, value = self.key(surroundings), self.value(surroundings)
        if which is not None:  # projected once for each frame, not for each object
            key, value = key.index_select(0, which), value.index_select(0, which)
        query = self.query(self.norm(tokens))
        attended = attend(_heads(query), _heads(key), _heads(value), None, self.opset)
        out: torch.Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return tokens + out


def _heads(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(-1, (HEADS, x.shape[-1] // HEADS)).transpose(1, 2)
