# SPDX-License-Identifier: Apache-2.0
"""ONNX operators that torch has no name for, and how networks are spelled in each opset.

Opset 24 has operators that TensorRT (from 10.15) and ONNX Runtime run as one piece: ``Attention``,
``RotaryEmbedding``, ``TensorScatter``. Opset 20 (older TensorRT) gets the same computation in small steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from onnxscript.onnx_opset import opset24
from torch import nn

FUSED_OPSET = 24
"""From this opset on the fused operators are used."""


@torch.library.custom_op("pixelrefer::tensor_scatter", mutates_args=())
def tensor_scatter(cache: torch.Tensor, update: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """ONNX ``TensorScatter`` along axis 2.

    Args:
        cache: (B, H, C, Dh).
        update: (B, H, S, Dh).
        start: (B,) int64, where in the cache each row of the batch goes; start + S <= C.

    Returns:
        The cache with the update in it, (B, H, C, Dh).
    """
    return cache.scatter(2, _places(update, start), update)


@tensor_scatter.register_fake
def _(cache: torch.Tensor, update: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(cache)


def _translated_tensor_scatter(cache: Any, update: Any, start: Any) -> Any:
    return opset24.TensorScatter(cache, update, start, axis=2)


def translations(opset: int) -> dict[Callable[..., Any], Any]:
    """What ``torch.onnx.export`` needs to know of our own operators."""
    if opset < FUSED_OPSET:
        return {}
    return {torch.ops.pixelrefer.tensor_scatter.default: _translated_tensor_scatter}


def update_cache(cache: torch.Tensor, update: torch.Tensor, start: torch.Tensor, opset: int) -> torch.Tensor:
    """Keys or values of new positions put into a static cache; see `tensor_scatter`."""
    if opset >= FUSED_OPSET:
        updated: torch.Tensor = tensor_scatter(cache, update, start)
        return updated
    return cache.scatter(2, _places(update, start), update)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, opset: int) -> torch.Tensor:
    """Rotary position embedding, pairs (i, i + Dh/2).

    Args:
        x: (B, H, S, Dh).
        cos: (B, S, Dh / 2), of the same dtype.
        sin: (B, S, Dh / 2).
        opset: which operators to use.
    """
    if opset >= FUSED_OPSET:
        rotated: torch.Tensor = torch.onnx.ops.rotary_embedding(x, cos, sin)
        return rotated
    cos, sin = cos[:, None], sin[:, None]
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, opset: int
) -> torch.Tensor:
    """Attention: query (B, H, S, Dh); key, value (B, Hkv, C, Dh); mask bool, True where it may look."""
    grouped = query.shape[1] != key.shape[1]
    if opset >= FUSED_OPSET:
        return nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, enable_gqa=grouped
        )
    heads = key.shape[1]
    # Queries of one key head stand one after the other: (B, Hkv, H / Hkv, S, Dh), with the keys broadcast.
    query = query.unflatten(1, (heads, query.shape[1] // heads)) * (1 / math.sqrt(query.shape[-1]))
    scores = query @ key[:, :, None].transpose(-1, -2)
    if mask is not None:
        hidden = torch.full((), torch.finfo(scores.dtype).min, dtype=scores.dtype)
        scores = torch.where(mask[:, :, None], scores, hidden)
    return (scores.softmax(dim=-1) @ value[:, :, None]).flatten(1, 2)


class Dense(nn.Module):
    """A linear layer as ONNX wants it: x @ kernel + bias, the kernel already transposed.

    Args:
        weight: (out, in), as torch keeps it.
        bias: (out,), or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.kernel = nn.Parameter(weight.detach().t(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @classmethod
    def of(cls, layer: nn.Linear) -> Dense:
        """The same layer."""
        return cls(layer.weight, layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out)."""
        product = torch.matmul(x, self.kernel)
        return product if self.bias is None else product + self.bias


def _places(update: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """For each element of the update, its index along the cache's axis 2."""
    steps = torch.arange(update.shape[2], dtype=torch.long, device=start.device)
    return (start[:, None] + steps)[:, None, :, None].expand(update.shape)


__all__ = [
    "FUSED_OPSET",
    "Dense",
    "attend",
    "rotate",
    "tensor_scatter",
    "translations",
    "update_cache",
]
