# SPDX-License-Identifier: Apache-2.0
"""A small untrained SAM 2, for tests and demonstrations of the plumbing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import (
    Sam2HieraDetConfig,
    Sam2VideoConfig,
    Sam2VideoMaskDecoderConfig,
    Sam2VideoPromptEncoderConfig,
    Sam2VisionConfig,
)

from pixelrefer_ros.runtime.whole_files import write_tensors
from pixelrefer_ros.tracking.checkpoint import WEIGHTS, set_image_size

if TYPE_CHECKING:
    from transformers import Sam2VideoModel

PRESENT_BIAS = 4.0
"""Object score logit that the untrained head gives, more or less: a probability of 0.98."""


def tiny_config(*, width: int = 128, image_size: int = 128) -> Sam2VideoConfig:
    """Return the config of a small SAM 2: every part of the real one, fewer and narrower layers.

    Args:
        width: C, 128 or another multiple of 64 above it (transformers fixes the width of memories at 64,
            and its own session cannot run a model as narrow as that).
        image_size: side of the input, pixels, a multiple of 32.
    """
    stages = [width // 4, width // 2, 3 * width // 4, width]
    backbone = Sam2HieraDetConfig(
        hidden_size=stages[0],
        embed_dim_per_stage=stages,
        num_attention_heads_per_stage=[1, 1, 2, 2],
        blocks_per_stage=[1, 1, 2, 1],
        window_size_per_stage=[8, 4, 4, 4],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[7, 7],
    )
    config = Sam2VideoConfig(
        vision_config=Sam2VisionConfig(
            backbone_config=backbone, backbone_channel_list=stages[::-1], fpn_hidden_size=width
        ),
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(hidden_size=width),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(
            hidden_size=width, mlp_dim=2 * width, num_attention_heads=4, iou_head_hidden_dim=width
        ),
        memory_attention_hidden_size=width,
        memory_attention_num_layers=2,
        memory_attention_feed_forward_hidden_size=2 * width,
        memory_encoder_hidden_size=width,
        mask_downsampler_embed_dim=width,
        memory_fuser_embed_dim=width,
        memory_fuser_intermediate_dim=2 * width,
        memory_fuser_num_layers=1,
    )
    set_image_size(config, image_size)
    return config


def randomise(model: Sam2VideoModel, *, seed: int = 0) -> Sam2VideoModel:
    """Give an untrained SAM 2 random weights with which every part does something; return it.

    transformers draws everything from N(0, 0.02), which leaves almost nothing of the picture after a
    few layers. Here every layer gets torch's own initialisation, every table of positions and times
    random values, and the two point embeddings the same table, as in trained models. The object score
    head ends in a bias of `PRESENT_BIAS`, so that objects count as present; its masks mean nothing.
    """
    model.eval().requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.LayerNorm)):
                module.reset_parameters()
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.5)
        for name, table in model.named_parameters():
            if name.rsplit(".", 1)[-1] not in ("weight", "bias"):
                nn.init.normal_(table, std=0.2)
        place = model.prompt_encoder.shared_embedding.positional_embedding
        model.shared_image_embedding.positional_embedding.copy_(nn.init.normal_(place))
    for fuser in model.memory_encoder.memory_fuser.layers:
        nn.init.constant_(fuser.scale, 0.1)
    for layer in model.memory_attention.layers:
        # Untrained attention is almost uniform: sharpen it and raise its part, so that memory matters.
        layer.cross_attn_image.q_proj.weight.mul_(4)
        layer.cross_attn_image.o_proj.weight.mul_(8)
    for head in model.mask_decoder.output_hypernetworks_mlps:
        # The features they are multiplied with are nearly all positive: without a mean, masks get both
        # signs, and so large, logits of a few units like those of trained masks.
        head.proj_out.weight.sub_(head.proj_out.weight.mean(0)).mul_(40)
        head.proj_out.bias.zero_()
    model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(PRESENT_BIAS)
    return model


def tiny_sam2(*, seed: int = 0, width: int = 128, image_size: int = 128) -> Sam2VideoModel:
    """Return a small SAM 2 with the random weights of `randomise`, in evaluation mode."""
    from transformers import Sam2VideoModel  # as in `build_model`

    return randomise(Sam2VideoModel(tiny_config(width=width, image_size=image_size)), seed=seed)


def write_tiny_sam2(folder: Path, *, seed: int = 0, width: int = 128, image_size: int = 128) -> Path:
    """Write a small SAM 2 with random weights in the transformers format, and return its folder.

    Args:
        folder: made if it is missing.
        seed: the same seed gives the same weights.
        width: C, see `tiny_config`.
        image_size: side of the input, pixels, a multiple of 32.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_sam2(tiny_sam2(seed=seed, width=width, image_size=image_size), folder)
    return folder


def write_sam2(model: Sam2VideoModel, folder: Path) -> None:
    """Write a model in the transformers format: ``config.json`` and ``model.safetensors``."""
    model.config.save_pretrained(folder)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_tensors(folder / WEIGHTS, weights, {"format": "pt"})
