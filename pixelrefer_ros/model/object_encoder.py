# SPDX-License-Identifier: Apache-2.0
"""PixelRefer's own part: patch features of one region to object tokens of the language model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pixelrefer_ros.model.kmeans import aggregate

HEADS = 8


class ObjectEncoder(nn.Module):
    """Position, aggregation and object-centric infusion (paper Sec. 4.2.1, Algorithm 1).

    The parameters' names are the released checkpoints' after ``model.region_encoder.``.

    Args:
        vision_width: D_v, the width of the vision encoder's features.
        language_width: D, the width of the language model.
        mask_num: n, the tokens of one region.
    """

    def __init__(self, vision_width: int, language_width: int, mask_num: int) -> None:
        super().__init__()
        self.mask_num = mask_num
        self.pos_linear = nn.Linear(2, vision_width)
        self.ln_local = nn.LayerNorm(vision_width)
        self.fusion_attention_local = nn.MultiheadAttention(vision_width, HEADS, batch_first=True)
        self.ln_global = nn.LayerNorm(vision_width)
        self.fusion_attention_global = nn.MultiheadAttention(vision_width, HEADS, batch_first=True)
        self.feat_linear = nn.Sequential(
            nn.Linear(vision_width, language_width), nn.GELU(), nn.Linear(language_width, language_width)
        )

    def region_tokens(
        self, features: torch.Tensor, positions: torch.Tensor, chosen: torch.Tensor
    ) -> torch.Tensor:
        """T_R of one object: its patches with their positions, aggregated.

        Args:
            features: (P, D_v) of the object's crop, row-major.
            positions: (P, 2) of the same patches.
            chosen: (P,) bool, the patches that show the object; at least one.

        Returns:
            (n, D_v).
        """
        placed = features + self.pos_linear(positions.to(features.dtype))
        return aggregate(placed[chosen], self.mask_num)

    def infuse(self, tokens: torch.Tensor, local: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
        """Algorithm 1 and the projection, for K objects at once.

        Args:
            tokens: T_R (K, n, D_v); rows of padding take part.
            local: F_l (K, 256, D_v), each object's own surroundings.
            whole: F_g (1 or K, 576, D_v), the frame.

        Returns:
            (K, n, D) object tokens.
        """
        projected: torch.Tensor = self.feat_linear(self.fuse(tokens, local, whole))
        return projected

    def fuse(self, tokens: torch.Tensor, local: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
        """Algorithm 1 alone, (K, n, D_v): what is projected; arguments as of `infuse`."""
        whole = whole.expand(tokens.shape[0], -1, -1)
        query = self.ln_local(tokens)
        tokens = tokens + self.fusion_attention_local(query, local, local, need_weights=False)[0]
        query = self.ln_global(tokens)
        fused: torch.Tensor = self.fusion_attention_global(query, whole, whole, need_weights=False)[0]
        return tokens + fused

    def forward(
        self,
        features: Sequence[torch.Tensor],
        positions: Sequence[torch.Tensor],
        chosen: Sequence[torch.Tensor],
        local: torch.Tensor,
        whole: torch.Tensor,
    ) -> torch.Tensor:
        """(K, n, D) object tokens of K objects; see `region_tokens` and `infuse` for the arguments."""
        regions = [self.region_tokens(*region) for region in zip(features, positions, chosen, strict=True)]
        return self.infuse(torch.stack(regions), local, whole)
