# SPDX-License-Identifier: Apache-2.0
"""The language model as two graphs: token embedding with the objects put in, and a decoder with caches."""

from __future__ import annotations

from typing import Any

import torch
from pixelrefer_ros.export.counting import running_count
from pixelrefer_ros.export.operators import Dense, attend, rotate, update_cache
from torch import nn
from transformers import Qwen2ForCausalLM
from transformers.activations import ACT2FN


class EmbedGraph(nn.Module):
    """A prompt's embeddings, the i-th ``<REGION>`` replaced by the i-th object token.

    Args:
        language: the language model; its embeddings are shared.
        region_id: of ``<REGION>``; None if the model has none, and no token is replaced.
    """

    def __init__(self, language: Qwen2ForCausalLM, region_id: int | None) -> None:
        super().__init__()
        self.table = nn.Parameter(language.model.embed_tokens.weight.detach(), requires_grad=False)
        self.region_id = -1 if region_id is None else region_id

    def forward(self, ids: torch.Tensor, objects: torch.Tensor) -> torch.Tensor:
        """Token ids (L,) int64 and object tokens (R, D), R >= 1, to embeddings (L, D).

        With no ``<REGION>`` among the ids the object tokens are not used: any row serves.
        """
        region = ids == self.region_id
        place = torch.where(region, running_count(region) - 1, 0)
        return torch.where(region[:, None], objects.index_select(0, place), self.table.index_select(0, ids))


class DecoderGraph(nn.Module):
    """`Qwen2ForCausalLM` with static caches: prefill and decode are one graph.

    Args:
        language: the language model; its weights are shared.
        opset: which operators to use.
    """

    def __init__(self, language: Qwen2ForCausalLM, opset: int) -> None:
        super().__init__()
        rotary = language.model.rotary_emb
        self.layers = nn.ModuleList([DecoderLayer(layer, opset) for layer in language.model.layers])
        self.norm = Norm(language.model.norm)
        self.head = Dense.of(language.lm_head)
        self.register_buffer("frequencies", rotary.inv_freq.detach().float())
        self.frequencies: torch.Tensor
        self.scale: float = rotary.attention_scaling

    def forward(
        self, embeddings: torch.Tensor, start: torch.Tensor, last: torch.Tensor, *caches: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Appends S positions to each row of a batch.

        Args:
            embeddings: (B, S, D); rows shorter than S are followed by anything.
            start: (B,) int64, positions the row has in its cache already.
            last: (B,) int64, which of the S positions is the row's last.
            caches: keys and values of each layer in turn, (B, Hkv, C, Dh) each.

        Returns:
            Logits after the last position, (B, 1, V) float32, and the updated caches.
        """
        rows, steps = embeddings.shape[:2]
        places = start[:, None] + torch.arange(steps, dtype=torch.long, device=start.device)
        angles = places[:, :, None].float() * self.frequencies
        cos = (angles.cos() * self.scale).to(embeddings.dtype)
        sin = (angles.sin() * self.scale).to(embeddings.dtype)
        capacity = torch.arange(caches[0].shape[2], dtype=torch.long, device=start.device)
        visible = (capacity <= places[:, :, None])[:, None]
        hidden, updated = embeddings, []
        for layer, key, value in zip(self.layers, caches[::2], caches[1::2], strict=True):
            hidden, key, value = layer(hidden, cos, sin, visible, start, key, value)
            updated += [key, value]
        # Three dimensions stay: the quantisers and TensorRT know a matrix product of those.
        ends = last[:, None, None].expand(rows, 1, hidden.shape[2])
        logits = self.head(self.norm(hidden.gather(1, ends)))
        return (logits.float(), *updated)


class DecoderLayer(nn.Module):
    """One layer; `layer` is transformers' own."""

    def __init__(self, layer: Any, opset: int) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.norm1, self.norm2 = Norm(layer.input_layernorm), Norm(layer.post_attention_layernorm)
        self.query, self.key, self.value, self.out = (
            Dense.of(linear)
            for linear in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
        )
        self.gate, self.up, self.down = (
            Dense.of(mlp.gate_proj),
            Dense.of(mlp.up_proj),
            Dense.of(mlp.down_proj),
        )
        self.activation = ACT2FN[mlp.config.hidden_act]
        self.width: int = attention.head_dim
        self.opset = opset

    def forward(
        self,
        hidden: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        visible: torch.Tensor,
        start: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, S, D) to the same, and the caches with the S positions in them."""
        normed = self.norm1(hidden)
        query = rotate(self._heads(self.query(normed)), cos, sin, self.opset)
        key = rotate(self._heads(self.key(normed)), cos, sin, self.opset)
        keys = update_cache(keys, key, start, self.opset)
        values = update_cache(values, self._heads(self.value(normed)), start, self.opset)
        attended = attend(query, keys, values, visible, self.opset)
        hidden = hidden + self.out(attended.transpose(1, 2).flatten(2))
        normed = self.norm2(hidden)
        return hidden + self.down(self.activation(self.gate(normed)) * self.up(normed)), keys, values

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (x.shape[-1] // self.width, self.width)).transpose(1, 2)


class Norm(nn.Module):
    """Root mean square norm in float32; `norm` is transformers' own."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight: nn.Parameter = norm.weight
        self.epsilon: float = norm.variance_epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., D) to the same."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.epsilon)
        return self.weight * wide.to(x.dtype)
