# SPDX-License-Identifier: Apache-2.0
"""The torch backend of the decoding loop: transformers' Qwen2 with its KV cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, Qwen2ForCausalLM


class TorchDecoder:
    """A `pixelrefer_ros.runtime.Decoder` over ``Qwen2ForCausalLM``, on the device and in the dtype it has.

    Args:
        language: the model, in eval mode.
    """

    def __init__(self, language: Qwen2ForCausalLM) -> None:
        """See the class."""
        self._language = language
        self._device = language.model.embed_tokens.weight.device
        self.context_length: int = language.config.max_position_embeddings

    @torch.inference_mode()
    def prefill(self, embeddings: torch.Tensor) -> tuple[Any, NDArray[np.float32]]:
        """Runs a prompt, (L, D); see `pixelrefer_ros.runtime.Decoder`."""
        output = self._language(
            inputs_embeds=embeddings[None],
            past_key_values=DynamicCache(config=self._language.config),
            use_cache=True,
            logits_to_keep=1,
        )
        return output.past_key_values, _last_logits(output.logits)

    @torch.inference_mode()
    def step(self, cache: Any, token_id: int) -> tuple[Any, NDArray[np.float32]]:
        """Appends one token; see `pixelrefer_ros.runtime.Decoder`."""
        output = self._language(
            input_ids=torch.tensor([[token_id]], device=self._device), past_key_values=cache, use_cache=True
        )
        return output.past_key_values, _last_logits(output.logits)


def _last_logits(logits: torch.Tensor) -> NDArray[np.float32]:
    return np.asarray(logits[0, -1].float().cpu().numpy())
