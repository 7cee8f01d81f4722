# SPDX-License-Identifier: Apache-2.0
"""The vision encoder as a graph: patches of several pictures in, features out, each picture by itself."""

from __future__ import annotations

from typing import Any

import torch
from pixelrefer_ros.export.counting import running_sum
from pixelrefer_ros.export.operators import Dense, attend, rotate
from torch import nn
from transformers import VideoLlama3VisionModel
from transformers.activations import ACT2FN


class VisionGraph(nn.Module):
    """`VideoLlama3VisionModel` with pictures kept apart by a mask, so that their sizes are free.

    Args:
        vision: the model; its weights are shared.
        opset: which operators to use.
    """

    def __init__(self, vision: VideoLlama3VisionModel, opset: int) -> None:
        super().__init__()
        embedding = vision.embeddings.patch_embedding
        # Kernel and stride are one patch: the convolution is a linear layer.
        self.embedding = Dense(embedding.weight.flatten(1), embedding.bias)
        self.layers = nn.ModuleList([VisionLayer(layer, opset) for layer in vision.encoder.layers])
        self.norm = vision.post_layernorm
        self.register_buffer("frequencies", vision.rotary_pos_emb.inv_freq.detach().float())
        self.frequencies: torch.Tensor

    def forward(self, patches: torch.Tensor, grids: torch.Tensor) -> torch.Tensor:
        """Encodes pictures.

        Args:
            patches: (P, 588), the pictures one after the other, patches in row-major order.
            grids: (G, 2) int64, patches (down, across) of each picture.

        Returns:
            (P, D_v).
        """
        picture, row, column = locate(patches.shape[0], grids)
        positions = torch.stack((row, column), dim=-1).float()
        angles = (positions[:, :, None] * self.frequencies).flatten(1)[None]
        cos, sin = angles.cos(), angles.sin()
        together = (picture[:, None] == picture[None, :])[None, None]
        hidden = self.embedding(patches)[None]
        for layer in self.layers:
            hidden = layer(hidden, cos, sin, together)
        features: torch.Tensor = self.norm(hidden)[0]
        return features


class VisionLayer(nn.Module):
    """One layer; `layer` is transformers' own."""

    def __init__(self, layer: Any, opset: int) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.norm1, self.norm2 = layer.layer_norm1, layer.layer_norm2
        self.query, self.key, self.value, self.out = (
            Dense.of(linear)
            for linear in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
        )
        self.fc1, self.fc2 = Dense.of(mlp.fc1), Dense.of(mlp.fc2)
        self.activation = ACT2FN[attention.config.hidden_act]
        self.heads: int = attention.num_heads
        self.opset = opset

    def forward(
        self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, together: torch.Tensor
    ) -> torch.Tensor:
        """(1, P, D_v) to the same; `together` (1, 1, P, P) says which patches are of one picture."""
        normed = self.norm1(hidden)
        # Rotated in float32, as the reference does: half precision would blur the positions.
        query = rotate(self._heads(self.query(normed)).float(), cos, sin, self.opset).to(hidden.dtype)
        key = rotate(self._heads(self.key(normed)).float(), cos, sin, self.opset).to(hidden.dtype)
        value = self._heads(self.value(normed))
        attended = attend(query, key, value, together, self.opset)
        hidden = hidden + self.out(attended.transpose(1, 2).flatten(2))
        mlp: torch.Tensor = self.fc2(self.activation(self.fc1(self.norm2(hidden))))
        return hidden + mlp

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, x.shape[-1] // self.heads)).transpose(1, 2)


def locate(patches: int, grids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where each of the patches of several grids lies, when the grids come one after the other.

    Args:
        patches: P, all together.
        grids: (G, 2) int64, (down, across).

    Returns:
        Which grid, which row, which column: (P,) int64 each.
    """
    sizes = grids[:, 0] * grids[:, 1]
    ends = running_sum(sizes)
    place = torch.arange(patches, dtype=torch.long, device=grids.device)
    grid = (place[:, None] >= ends[None, :]).long().sum(dim=1)
    within = place - (ends - sizes).index_select(0, grid)
    across = grids[:, 1].index_select(0, grid)
    row = torch.div(within, across, rounding_mode="trunc")
    return grid, row, within - row * across
