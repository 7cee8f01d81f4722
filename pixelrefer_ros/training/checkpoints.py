# SPDX-License-Identifier: Apache-2.0
"""PixelRefer-Lite for training: made new or loaded, and written back in the released layout."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import Qwen2ForCausalLM, VideoLlama3VisionModel

from pixelrefer_ros.model import (
    HEAD,
    MODEL_TYPE,
    PATCH,
    REGION_PREFIX,
    SINGLE,
    TOKENIZER_FILES,
    VISION_PREFIX,
    ChatTokenizer,
    ObjectEncoder,
    PixelReferNetwork,
    load_network,
    read_config,
    vision_config,
)
from pixelrefer_ros.runtime.whole_files import write_tensors
from pixelrefer_ros.training.first_weights import draw_weights
from pixelrefer_ros.training.tokenizer import VOCABULARY, world_text, write_tokenizer

CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a new PixelRefer-Lite. The defaults have 5.3 million parameters, and fit two CPU cores.

    Attributes:
        vision_width: of the vision encoder.
        vision_layers: likewise.
        vision_heads: likewise.
        language_width: of the language model.
        language_layers: likewise.
        language_heads: likewise; half as many for keys and values.
        mask_num: n, object tokens per region and frame.
        vocabulary: of the tokenizer.
        context: positions of the language model.
        patch_budget: patches of one object's crop at most.
    """

    vision_width: int = 128
    vision_layers: int = 6
    vision_heads: int = 4
    language_width: int = 256
    language_layers: int = 6
    language_heads: int = 4
    mask_num: int = 8
    vocabulary: int = VOCABULARY
    context: int = 1024
    patch_budget: int = 256


def new_checkpoint(folder: Path, sizes: Sizes, *, seed: int) -> None:
    """Writes config and tokenizer of a new model; `new_network` makes the weights.

    Args:
        folder: made if it does not exist.
        sizes: of the model.
        seed: of the scenes whose text the tokenizer is trained on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_tokenizer(folder, world_text(seed), vocabulary=sizes.vocabulary)
    fields = {
        "model_type": MODEL_TYPE,
        "architectures": ["PixelReferLiteQwen2ForCausalLM"],
        "hidden_size": sizes.language_width,
        "intermediate_size": 2 * sizes.language_width,
        "num_hidden_layers": sizes.language_layers,
        "num_attention_heads": sizes.language_heads,
        "num_key_value_heads": max(1, sizes.language_heads // 2),
        "vocab_size": len(vocabulary),
        "max_position_embeddings": sizes.context,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "mask_num": sizes.mask_num,
        "position_reading": "paper",
        "patch_budget": sizes.patch_budget,
        "region_token_index": vocabulary["<REGION>"],
        "vision_config": {
            "hidden_size": sizes.vision_width,
            "intermediate_size": 4 * sizes.vision_width,
            "num_hidden_layers": sizes.vision_layers,
            "num_attention_heads": sizes.vision_heads,
            "patch_size": PATCH,
        },
    }
    (folder / CONFIG).write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")


def new_network(folder: Path, *, seed: int) -> PixelReferNetwork:
    """Random weights for a folder of `new_checkpoint`, float32 on the CPU, every part trainable.

    Raises:
        CheckpointError: the config cannot be used.
    """
    fields = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config = read_config(folder, fields, vision_config(folder / CONFIG, fields["vision_config"]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PixelReferNetwork(
            config=config,
            vision=VideoLlama3VisionModel(config.vision),
            object_encoder=ObjectEncoder(
                config.vision.hidden_size, config.language.hidden_size, config.mask_num
            ),
            language=Qwen2ForCausalLM(config.language),
        )
        draw_weights(network)
    return network


def trainable_network(folder: Path) -> PixelReferNetwork:
    """A checkpoint's networks in float32 on the CPU, every part trainable.

    Raises:
        CheckpointError: it cannot be loaded.
    """
    network = load_network(folder, device=torch.device("cpu"), dtype=torch.float32)
    for module in modules_of(network).values():
        module.requires_grad_(True)
    return network


def modules_of(network: PixelReferNetwork) -> dict[str, nn.Module]:
    """The networks by their prefix in released checkpoints."""
    return {VISION_PREFIX: network.vision, REGION_PREFIX: network.object_encoder, "": network.language}


def weights_of(network: PixelReferNetwork, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """All weights under their released names; a head that is tied to the embeddings is left out."""
    tied = network.config.language.tie_word_embeddings
    return {
        prefix + name: value.detach().to("cpu", dtype).contiguous()
        for prefix, module in modules_of(network).items()
        for name, value in module.state_dict().items()
        if not (tied and prefix + name == HEAD)
    }


def write_network(network: PixelReferNetwork, folder: Path, source: Path, *, dtype: torch.dtype) -> None:
    """Writes a whole checkpoint: weights of this network, config and tokenizer of its source.

    Args:
        network: what was trained.
        folder: made if it does not exist; may be the source.
        source: the folder whose config and tokenizer belong to it.
        dtype: of the written weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fields = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    fields["torch_dtype"] = str(dtype).removeprefix("torch.")
    fields["tie_word_embeddings"] = network.config.language.tie_word_embeddings
    fields["region_token_index"] = network.config.region_token_id
    for name in (*TOKENIZER_FILES, "vision_config.json"):
        if (source / name).is_file() and source.resolve() != folder.resolve():
            shutil.copyfile(source / name, folder / name)
    (folder / CONFIG).write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    write_tensors(folder / SINGLE, weights_of(network, dtype), {"format": "pt"})


def tokenizer_of(folder: Path) -> ChatTokenizer:
    """The checkpoint's tokenizer.

    Raises:
        CheckpointError: there is none that fits.
    """
    return ChatTokenizer(folder)


def parameter_count(network: PixelReferNetwork) -> int:
    """Numbers in a checkpoint of this network; tied weights count once."""
    seen = {id(p): p.numel() for module in modules_of(network).values() for p in module.parameters()}
    return sum(seen.values())
