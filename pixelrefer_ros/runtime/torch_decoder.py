# SPDX-License-Identifier: Apache-2.0
"""The torch backend of the decoding loop: transformers' Qwen2 with its KV cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, Qwen2ForCausalLM

from pixelrefer_ros.runtime.decoding import DecodingBatch


class TorchDecoder:
    """A `pixelrefer_ros.runtime.Decoder` over ``Qwen2ForCausalLM``, on the device and in the dtype it has.

    Args:
        language: the model, in eval mode.
    """

    max_batch = 64
    """Bounds memory; the model itself has no bound."""

    def __init__(self, language: Qwen2ForCausalLM) -> None:
        """See the class."""
        self._language = language
        self.context_length: int = language.config.max_position_embeddings

    def batch(self) -> DecodingBatch:
        """A batch with no row yet; see `pixelrefer_ros.runtime.Decoder`."""
        return _TorchBatch(self._language)


class _TorchBatch:
    """Rows of one cache, each padded on the left to the longest."""

    def __init__(self, language: Qwen2ForCausalLM) -> None:
        self._language = language
        self._device = language.model.embed_tokens.weight.device
        self._cache = DynamicCache(config=language.config)
        self._lengths: list[int] = []

    @torch.inference_mode()
    def add(self, embeddings: torch.Tensor) -> NDArray[np.float32]:
        output = self._language(
            inputs_embeds=embeddings[None],
            past_key_values=DynamicCache(config=self._language.config),
            use_cache=True,
            logits_to_keep=1,
        )
        if self._lengths:
            self._lengths.append(embeddings.shape[0])
            self._pad_together(output.past_key_values)
        else:
            self._lengths, self._cache = [embeddings.shape[0]], output.past_key_values
        return _last_logits(output.logits)[0]

    @torch.inference_mode()
    def step(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        padded: dict[str, torch.Tensor] = {}
        longest = max(self._lengths)
        if min(self._lengths) < longest:
            lengths = torch.tensor(self._lengths, device=self._device)[:, None]
            positions = torch.arange(longest + 1, device=self._device)
            padded = {"attention_mask": positions >= longest - lengths, "position_ids": lengths}
        output = self._language(
            input_ids=torch.tensor(token_ids, device=self._device)[:, None],
            past_key_values=self._cache,
            use_cache=True,
            **padded,
        )
        self._lengths = [length + 1 for length in self._lengths]
        return _last_logits(output.logits)

    @torch.inference_mode()
    def remove(self, row: int) -> None:
        kept = list(range(len(self._lengths) - 1))
        if row < len(kept):
            kept[row] = len(kept)
        excess = max(self._lengths)
        self._lengths = [self._lengths[place] for place in kept]
        excess -= max(self._lengths, default=0)
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[kept, :, excess:], layer.values[kept, :, excess:]

    def close(self) -> None:
        self._lengths, self._cache = [], DynamicCache(config=self._language.config)

    def _pad_together(self, other: DynamicCache) -> None:
        longest = max(self._lengths)
        for layer, new in zip(self._cache.layers, other.layers, strict=True):
            layer.keys, layer.values = (
                torch.cat([_pad_left(mine, longest), _pad_left(its, longest)])
                for mine, its in ((layer.keys, new.keys), (layer.values, new.values))
            )


def _pad_left(x: torch.Tensor, length: int) -> torch.Tensor:
    """(B, H, L, D) to (B, H, length, D)."""
    return torch.nn.functional.pad(x, (0, 0, length - x.shape[2], 0))


def _last_logits(logits: torch.Tensor) -> NDArray[np.float32]:
    return np.asarray(logits[:, -1].float().cpu().numpy())
