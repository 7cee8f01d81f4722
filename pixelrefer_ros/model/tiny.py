# SPDX-License-Identifier: Apache-2.0
"""A small random PixelRefer-Lite in the released layout: for tests and demos without the real weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pixelrefer_ros.model.checkpoint import EMBEDDINGS, HEAD, REGION_PREFIX
from pixelrefer_ros.model.config import MODEL_TYPE, PATCH, PixelReferConfig, PositionReading, read_config
from pixelrefer_ros.model.object_encoder import ObjectEncoder
from pixelrefer_ros.model.tiny_tokenizer import write_tiny_tokenizer
from pixelrefer_ros.model.vision_config import VISION_PREFIX, vision_config
from pixelrefer_ros.model.weights import INDEX, SINGLE

_SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
_SPREAD = 0.08  # of the random weights: wide enough that different objects get different answers


def write_tiny_checkpoint(
    folder: Path,
    *,
    seed: int = 0,
    vision_layers: int = 2,
    vision_width: int = 64,
    language_layers: int = 2,
    language_width: int = 128,
    mask_num: int = 8,
    context_length: int = 2048,
    position_reading: PositionReading = "paper",
    sharded: bool = False,
    tied: bool = False,
    region_token_in_config: bool = True,
) -> Path:
    """Writes config, tokenizer and random weights that `PixelReferLite.from_pretrained` loads.

    The answers are not sensible, but the same seed gives the same files and the same answers.

    Args:
        folder: made if it does not exist.
        seed: of the weights.
        vision_layers: of the vision encoder.
        vision_width: of the vision encoder, which has 4 heads; a multiple of 16.
        language_layers: of the language model.
        language_width: of the language model, which has 4 heads, 2 of them for keys and values.
        mask_num: n, the object tokens of a region.
        context_length: positions of the language model.
        position_reading: written to the config.
        sharded: two weight files and an index instead of one file.
        tied: leave ``lm_head`` out; the embeddings serve for it.
        region_token_in_config: write ``region_token_index``; otherwise only the tokenizer knows it.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_tiny_tokenizer(folder)
    fields: dict[str, Any] = {
        "model_type": MODEL_TYPE,
        "architectures": ["PixelReferLiteQwen2ForCausalLM"],
        "hidden_size": language_width,
        "intermediate_size": 2 * language_width,
        "num_hidden_layers": language_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": len(vocabulary),
        "max_position_embeddings": context_length,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "torch_dtype": "float32",
        "mask_num": mask_num,
        "position_reading": position_reading,
        "vision_config": {
            "hidden_size": vision_width,
            "intermediate_size": 2 * vision_width,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": 4,
            "patch_size": PATCH,
        },
    }
    if region_token_in_config:
        fields["region_token_index"] = vocabulary["<REGION>"]
    (folder / "config.json").write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    _write_weights(folder, dict(_random_weights(folder, fields, seed)), sharded=sharded)
    return folder


def released_shapes(config: PixelReferConfig) -> dict[str, torch.Size]:
    """Every tensor of a released checkpoint of this configuration: key to shape, in the order of the keys."""
    from transformers import Qwen2ForCausalLM, VideoLlama3VisionModel  # as in `load_network`

    with torch.device("meta"):
        modules = {
            VISION_PREFIX: VideoLlama3VisionModel(config.vision),
            REGION_PREFIX: ObjectEncoder(
                config.vision.hidden_size, config.language.hidden_size, config.mask_num
            ),
            "": Qwen2ForCausalLM(config.language),
        }
    shapes = {
        prefix + name: value.shape
        for prefix, module in modules.items()
        for name, value in module.state_dict().items()
    }
    if config.language.tie_word_embeddings:
        shapes.pop(HEAD, None)
    # Present in released checkpoints, and not needed: a loader must leave them alone.
    width, language = config.vision.hidden_size, config.language.hidden_size
    shapes[REGION_PREFIX + "mask_embedding.weight"] = torch.Size((width, 1, 1, 1))
    shapes["model.mm_projector.readout.0.weight"] = torch.Size((language, width))
    return dict(sorted(shapes.items()))


def _random_weights(folder: Path, fields: dict[str, Any], seed: int) -> Iterator[tuple[str, torch.Tensor]]:
    config = read_config(folder, fields, vision_config(folder / "config.json", fields["vision_config"]))
    generator = torch.Generator().manual_seed(seed)
    for key, shape in released_shapes(config).items():
        random = torch.randn(shape, generator=generator)
        norm = "norm" in key or ".ln_" in key
        if key == EMBEDDINGS:
            # Tied to the head, wide embeddings would make the model repeat its last token for ever.
            yield key, (2 * _SPREAD if config.language.tie_word_embeddings else 1) * random
        elif norm and key.endswith("weight"):
            yield key, 1 + _SPREAD * random
        else:
            yield key, _SPREAD * random


def _write_weights(folder: Path, weights: dict[str, torch.Tensor], *, sharded: bool) -> None:
    for name in (SINGLE, INDEX, *_SHARDS):  # of an earlier call: an index left over would hide a single file
        (folder / name).unlink(missing_ok=True)
    if not sharded:
        save_file(weights, folder / SINGLE, metadata={"format": "pt"})
        return
    keys = sorted(weights)
    halves = dict(zip(_SHARDS, (keys[: len(keys) // 2], keys[len(keys) // 2 :]), strict=True))
    for name, half in halves.items():
        save_file({key: weights[key] for key in half}, folder / name, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(value.numel() * value.element_size() for value in weights.values())},
        "weight_map": {key: name for name, half in halves.items() for key in half},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
