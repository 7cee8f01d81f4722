# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of PixelRefer-Lite-2B's shape with random weights, in the released layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import VideoLlama3VisionConfig

from pixelrefer_ros.model.config import MODEL_TYPE, read_config
from pixelrefer_ros.model.tiny import released_shapes
from pixelrefer_ros.model.tiny_tokenizer import write_tiny_tokenizer
from pixelrefer_ros.model.weights import INDEX

SHARD_BYTES = 1 << 30
DISK_BYTES = 5 << 30
"""What it takes on the disk, at most."""

CONFIG: dict[str, Any] = {
    "model_type": MODEL_TYPE,
    "architectures": ["PixelReferLiteQwen2ForCausalLM"],
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "mask_num": 32,
    "mm_hidden_size": 1152,
    "mm_vision_encoder": "DAMO-NLP-SG/VL3-SigLIP-NaViT",
    "spatial_merge_size": 2,
}
VISION = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}


def write_checkpoint(folder: Path) -> int:
    """Writes the folder shard by shard; returns the number of parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_tiny_tokenizer(folder)
    fields = CONFIG | {"region_token_index": vocabulary["<REGION>"]}
    # No vision_config: as in a released folder, the sizes must come from the weights.
    (folder / "config.json").write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    shapes = released_shapes(read_config(folder, fields, VideoLlama3VisionConfig(**VISION)))
    shards: list[list[str]] = [[]]
    size = 0
    for key, shape in shapes.items():
        if size > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(key)
        size += 2 * shape.numel()
    generator = torch.Generator().manual_seed(0)
    weight_map: dict[str, str] = {}
    for number, keys in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file({key: random_weight(key, shapes[key], generator) for key in keys}, folder / name)
        weight_map |= dict.fromkeys(keys, name)
    total = sum(shape.numel() for shape in shapes.values())
    index = {"metadata": {"total_size": 2 * total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return total


def random_weight(key: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """One tensor in bfloat16; norms near 1, everything else as an untrained model starts."""
    center = 1.0 if ("norm" in key or ".ln_" in key) and key.endswith("weight") else 0.0
    return torch.empty(shape, dtype=torch.bfloat16).normal_(center, 0.02, generator=generator)
