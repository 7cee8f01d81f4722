# SPDX-License-Identifier: Apache-2.0
"""A random PixelRefer-Lite of middle size, under torch, ``torch.compile`` and ONNX Runtime."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pixelrefer_ros.export import export_language
from transformers import (
    Qwen2Config,
    Qwen2ForCausalLM,
    StaticCache,
    VideoLlama3VisionConfig,
    VideoLlama3VisionModel,
)

from pixelrefer_ros.model import (
    MODEL_TYPE,
    ObjectEncoder,
    PixelReferConfig,
    PixelReferNetwork,
    RegionNetwork,
    open_network,
)
from pixelrefer_ros.runtime import OnnxRuntimeBackend

CONTEXT, MASK_NUM, REGION = 256, 32, 7
INT8_VISION = "int4, vision in int8"
LANGUAGE = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 32000,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
}
VISION = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "patch_size": 14,
}
QUESTION = [*range(100, 110), *[REGION] * MASK_NUM, *range(110, 122)]
"""A prompt with one object."""
EXPORTS = (("fp32", "fp32", False), ("int4", "int4", False), (INT8_VISION, "int4", True))
"""Under ONNX Runtime: the name in the table, the precision, and whether vision multiplies integers."""


def random_network() -> PixelReferNetwork:
    """The networks, with the weights their classes start from."""
    torch.manual_seed(0)
    config = PixelReferConfig(Qwen2Config(**LANGUAGE), VideoLlama3VisionConfig(**VISION), MASK_NUM, REGION)
    network = PixelReferNetwork(
        config,
        VideoLlama3VisionModel(config.vision),
        ObjectEncoder(config.vision.hidden_size, config.language.hidden_size, MASK_NUM),
        Qwen2ForCausalLM(config.language),
    )
    for module in (network.vision, network.object_encoder, network.language):
        module.eval().requires_grad_(False)  # as a loaded checkpoint is
    return network


class CompiledTorch(PixelReferNetwork):
    """The same networks through ``torch.compile``: the vision encoder, and the decoder on a static cache."""

    def __init__(self, network: PixelReferNetwork) -> None:
        """Shares the weights of `network`."""
        super().__init__(
            network.config, torch.compile(network.vision), network.object_encoder, network.language
        )

    def decoder(self) -> Any:
        """A `pixelrefer_ros.runtime.Decoder`."""
        return CompiledTorchDecoder(self.language)


class CompiledTorchDecoder:
    """Prefill in eager mode, then compiled steps; one answer at a time, which is its own batch."""

    max_batch = 1

    def __init__(self, language: Qwen2ForCausalLM) -> None:
        """Compiles at the first step."""
        self.language, self.context_length = language, CONTEXT
        self.compiled = torch.compile(language, dynamic=False)
        self.cache, self.length = None, 0

    def batch(self) -> Any:
        """See `pixelrefer_ros.runtime.Decoder`."""
        return self

    @torch.inference_mode()
    def add(self, embeddings: torch.Tensor) -> Any:
        """See `pixelrefer_ros.runtime.DecodingBatch`."""
        self.cache = StaticCache(config=self.language.config, max_cache_len=CONTEXT)
        self.length = embeddings.shape[0]
        output = self.language(inputs_embeds=embeddings[None], past_key_values=self.cache, logits_to_keep=1)
        return output.logits[0, -1].numpy()

    @torch.inference_mode()
    def step(self, token_ids: Sequence[int]) -> Any:
        """See `pixelrefer_ros.runtime.DecodingBatch`."""
        output = self.compiled(
            input_ids=torch.tensor([token_ids]),
            position_ids=torch.tensor([[self.length]]),
            past_key_values=self.cache,
        )
        self.length += 1
        return output.logits[:, -1].numpy()

    def remove(self, row: int) -> None:
        """See `pixelrefer_ros.runtime.DecodingBatch`."""

    def close(self) -> None:
        """See `pixelrefer_ros.runtime.DecodingBatch`."""


def exported(
    network: PixelReferNetwork, threads: int, exports: Sequence[tuple[str, str, bool]] = EXPORTS
) -> dict[str, RegionNetwork]:
    """The same networks under ONNX Runtime, by the names of the table."""
    networks: dict[str, RegionNetwork] = {}
    with tempfile.TemporaryDirectory(prefix="pixelrefer-") as folder:
        source = Path(folder) / "source"
        source.mkdir()
        fields = {"model_type": MODEL_TYPE, "mask_num": MASK_NUM, **LANGUAGE}
        (source / "config.json").write_text(json.dumps(fields), encoding="utf-8")
        for name, precision, int8_vision in exports:
            out = Path(folder) / name
            export_language(
                network,
                source,
                out,
                name="bench",
                content_hash="",
                precision=precision,
                context_length=CONTEXT,
                int8_vision=int8_vision,
            )
            backend = OnnxRuntimeBackend(threads=threads)
            networks[f"onnxruntime {name}"] = open_network(out, backend, torch.device("cpu"))
    return networks
