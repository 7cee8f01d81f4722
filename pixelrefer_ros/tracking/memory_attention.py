# SPDX-License-Identifier: Apache-2.0
"""SAM 2's memory attention over fixed slots, objects on the batch axis.

``transformers`` concatenates whatever memories an object has, one object at a time. Here every object
has the same slots with validity masks, so that all objects run in one batch and the graph has fixed
shapes. An invalid slot gets a key bias of -1e4, which leaves the result equal to leaving it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import Sam2VideoModel

INVALID_BIAS = -1e4
"""Added to the attention logits of keys in unused slots; finite, so that float16 keeps it."""


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position encoding of neighbouring channel pairs, in float32.

    Args:
        x: (..., T, D).
        cos: (T, D), each value twice, once per channel of its pair.
        sin: like ``cos``.
    """
    wide = x.float()
    swapped = torch.stack((-wide[..., 1::2], wide[..., ::2]), dim=-1).flatten(-2)
    return (wide * cos + swapped * sin).to(x.dtype)


def sine_encoding(position: Tensor, channels: int) -> Tensor:
    """Encode scalar positions (...,) by sines and cosines: (..., channels) float32."""
    half = channels // 2
    exponent = 2 * (torch.arange(half, device=position.device) // 2) / half
    angle = position[..., None].float() / 10000**exponent
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


class MemoryAttention(nn.Module):
    """Image features conditioned on each object's memories and pointers (SAM 2, section 4)."""

    cos: Tensor
    sin: Tensor
    image_position: Tensor
    slot_position: Tensor

    def __init__(self, model: Sam2VideoModel, *, whole_masks: bool = False) -> None:
        """Share the weights of ``model``; positions and temporal encodings are baked.

        The temporal encoding belongs to the slot: slot 0 holds the prompt frame (the last row of the
        table), slot s the memory S - s frames back (row S - s - 1).

        Args:
            model: gives weights and config.
            whole_masks: mask unused slots by a bool for every query and key, as ONNX's ``Attention``
                wants it, rather than by a bias for every key. The result is the same.
        """
        super().__init__()
        config = model.config
        self.whole_masks = whole_masks
        self.layers = model.memory_attention.layers
        self.layer_norm = model.memory_attention.layer_norm
        self.pointer_time = model.temporal_positional_encoding_projection_layer
        self.pointers_have_time = bool(config.enable_temporal_pos_encoding_for_object_pointers)
        self.pointer_span = float(config.max_object_pointers_in_encoder - 1)
        device, dtype = model.no_memory_embedding.device, model.no_memory_embedding.dtype
        height, width = model.backbone_feature_sizes[-1]
        self.memory_channels = model.mem_dim
        rope = model.memory_attention.rotary_emb
        cos, sin = rope(torch.zeros(1, device=device), model.memory_attention.position_ids)
        with torch.no_grad():
            image = model.vision_encoder.neck.position_encoding(
                (1, model.hidden_dim, height, width), device, torch.float32
            )
            place = model.memory_encoder.position_encoding(
                (1, model.mem_dim, height, width), device, torch.float32
            )
            time = model.memory_temporal_positional_encoding.flatten(1).float()
            slot_position = place.flatten(2).transpose(1, 2) + time.flip(0)[:, None]
        self.register_buffer("cos", cos.view(height * width, -1).float(), persistent=False)
        self.register_buffer("sin", sin.view(height * width, -1).float(), persistent=False)
        self.register_buffer("image_position", image.flatten(2).transpose(1, 2).to(dtype), persistent=False)
        self.register_buffer("slot_position", slot_position.to(dtype), persistent=False)

    def forward(
        self,
        features: Tensor,
        memory: Tensor,
        memory_valid: Tensor | None,
        pointers: Tensor,
        pointer_distance: Tensor,
        pointer_valid: Tensor | None,
    ) -> Tensor:
        """Condition one frame's features on every object's memory.

        Args:
            features: (1, C, h, w) of the image encoder.
            memory: (N, S, h * w, 64): slot 0 the prompt frame, then the older to the newer frames.
            memory_valid: (N, S) bool.
            pointers: (N, P, C).
            pointer_distance: (N, P) float32, frames between the pointer's frame and this one.
            pointer_valid: (N, P) bool. Both masks None: every slot is used (a faster kernel).

        Returns:
            (N, C, h, w).
        """
        objects, slots, tokens, channels = memory.shape
        pointer_tokens, pointer_position = self._pointer_tokens(pointers, pointer_distance)
        keys = torch.cat((memory.flatten(1, 2), pointer_tokens), dim=1)
        position = self.slot_position.reshape(1, slots * tokens, channels).expand(objects, -1, -1)
        keys_at = keys + torch.cat((position, pointer_position), dim=1)
        mask = None
        if memory_valid is not None and pointer_valid is not None:
            split = pointer_tokens.shape[1] // pointers.shape[1]
            valid = torch.cat(
                (memory_valid.repeat_interleave(tokens, 1), pointer_valid.repeat_interleave(split, 1)), 1
            )
            mask = self._mask(valid[:, None, None], features)
        x = features.flatten(2).transpose(1, 2) + 0.1 * self.image_position
        layer: Any  # transformers' Sam2VideoMemoryAttentionLayer
        for layer in self.layers:
            inner = layer.layer_norm1(x)
            x = x + self._attend(layer.self_attn, inner, inner, inner, 1, None)
            # Until here nothing depends on the object: the first self-attention runs once for all.
            x = x.expand(objects, -1, -1)
            x = x + self._attend(layer.cross_attn_image, layer.layer_norm2(x), keys_at, keys, slots, mask)
            x = x + layer.linear2(layer.activation(layer.linear1(layer.layer_norm3(x))))
        height, width = features.shape[-2:]
        return self.layer_norm(x).transpose(1, 2).unflatten(2, (height, width))

    def _mask(self, valid: Tensor, features: Tensor) -> Tensor:
        """The attention mask that leaves keys out where ``valid`` (N, 1, 1, K) is not set."""
        if self.whole_masks:
            return valid.expand(-1, -1, features.shape[-2] * features.shape[-1], -1)
        return torch.where(valid, 0.0, INVALID_BIAS).to(features.dtype)

    def _pointer_tokens(self, pointers: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Split pointers into tokens of the memory's width; return them with their time encoding."""
        objects, count, width = pointers.shape
        split = width // self.memory_channels
        tokens = pointers.reshape(objects, count * split, self.memory_channels)
        if not self.pointers_have_time:
            return tokens, torch.zeros_like(tokens)
        time = self.pointer_time(sine_encoding(distance / self.pointer_span, width).to(pointers.dtype))
        return tokens, time.repeat_interleave(split, dim=1)

    def _attend(
        self, attention: Any, query: Tensor, key: Tensor, value: Tensor, grids: int, mask: Tensor | None
    ) -> Tensor:
        """One attention; the first ``grids`` feature grids of the keys are rotated, pointers are not."""
        heads = attention.num_attention_heads
        q, k, v = (
            projection(x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for projection, x in (
                (attention.q_proj, query),
                (attention.k_proj, key),
                (attention.v_proj, value),
            )
        )
        rotated = grids * self.cos.shape[0]
        cos, sin = self.cos.repeat(grids, 1), self.sin.repeat(grids, 1)
        q = rotate(q, self.cos, self.sin)
        k = torch.cat((rotate(k[:, :, :rotated], cos, sin), k[:, :, rotated:]), dim=2)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=attention.scaling)
        return attention.o_proj(out.transpose(1, 2).flatten(2))
