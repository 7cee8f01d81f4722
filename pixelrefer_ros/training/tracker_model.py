# SPDX-License-Identifier: Apache-2.0
"""A small SAM 2 for training: made new, taken to another image size, and written."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Sam2VideoConfig, Sam2VideoModel

from pixelrefer_ros.tracking import tiny_config, write_sam2
from pixelrefer_ros.tracking.checkpoint import set_image_size

_EMBEDDING_STD = 0.5
_ALIKE = 2.5
"""Of the decoder's tied projections over torch's initialisation: attention falls to half within about a
tenth of the picture."""
_MASKS = 3.0  # so that in memory masks begin as loud as what they are of
_HERE, _FAST = 2.0, 8
"""Biases with which memory attention begins, on the fastest rotations of either axis: with the rotary
encoding they are an attention to the same cell, down to a hundredth at a distance of four cells."""


def new_tracker(*, seed: int, image_size: int, width: int, slots: int) -> Sam2VideoModel:
    """A small SAM 2 with weights to begin training from.

    transformers draws everything from N(0, 0.02), with which nothing of the picture passes a few layers:
    every layer gets torch's own initialisation instead. The point embedding is the image's, as in SAM 2.
    Attention begins with looking at the same place, see `_look_nearby`.

    Args:
        seed: of the weights.
        image_size: side of the input, px.
        width: C.
        slots: memories of an object, the prompt's included; pointers likewise. With as many as a clip in
            training fills, what is far behind does not meet slots that were never taught.
    """
    config: Sam2VideoConfig = tiny_config(width=width, image_size=image_size)
    config.num_maskmem = config.max_object_pointers_in_encoder = slots
    config.multimask_output_in_sam = False
    config.mask_decoder_config.dynamic_multimask_via_stability = False
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = Sam2VideoModel(config)
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.LayerNorm)):
                module.reset_parameters()
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=_EMBEDDING_STD)
        for name, table in model.named_parameters():
            if name.rsplit(".", 1)[-1] not in ("weight", "bias", "scale"):
                nn.init.trunc_normal_(table, std=0.1)
        place = model.prompt_encoder.shared_embedding.positional_embedding
        model.shared_image_embedding.positional_embedding.copy_(nn.init.normal_(place))
        for fuser in model.memory_encoder.memory_fuser.layers:
            nn.init.constant_(fuser.scale, 0.1)
        model.memory_encoder.mask_downsampler.final_conv.weight.mul_(_MASKS)
        _look_nearby(model)
    return model


def resized(model: Sam2VideoModel, image_size: int) -> Sam2VideoModel:
    """The model itself, or one with the same weights and another input size (px)."""
    if model.config.image_size == image_size:
        return model
    config = deepcopy(model.config)
    set_image_size(config, image_size)
    other = Sam2VideoModel(config)
    other.load_state_dict(model.state_dict())
    return other.to(model.device).train(model.training)


def freeze_tables(model: Sam2VideoModel) -> None:
    """What the tracker bakes into its graphs must not change under the ones that training uses."""
    for table in (
        model.prompt_encoder.shared_embedding.positional_embedding,
        model.shared_image_embedding.positional_embedding,
        model.memory_temporal_positional_encoding,
    ):
        table.requires_grad_(False)


def write_tracker(model: Sam2VideoModel, out: Path) -> None:
    """Writes float16 weights that `StreamTracker.from_pretrained` loads; the model itself stays as it is."""
    written = Sam2VideoModel(model.config)
    written.load_state_dict(model.state_dict())
    # Half of the bytes; point coordinates need more digits than float16 has.
    table = written.prompt_encoder.shared_embedding.positional_embedding.detach().clone()
    written = written.half()
    written.prompt_encoder.shared_embedding.positional_embedding.data = table
    write_sam2(written, out)


def _look_nearby(model: Sam2VideoModel) -> None:
    """Lets untrained attention between places prefer the same place.

    Prompt and picture carry the same encoding of places, but through two unrelated random projections a
    prompt is no more like its own place than like any other: a model then first learns to segment whatever
    stands out, and is long in finding that prompts say which. With one projection for both sides a place is
    most like itself from the beginning. In memory attention, where places are rotations, equal biases do
    the same.
    """
    decoder = model.mask_decoder.transformer
    attentions: list[Any] = [decoder.final_attn_token_to_image]
    for layer in decoder.layers:
        attentions += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    for attention in attentions:
        attention.q_proj.weight.mul_(_ALIKE)
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        nn.init.zeros_(attention.q_proj.bias)
        nn.init.zeros_(attention.k_proj.bias)
    for layer in model.memory_attention.layers:
        for projection in (layer.cross_attn_image.q_proj, layer.cross_attn_image.k_proj):
            nn.init.zeros_(projection.bias)
            # One half of the channels turns with each axis, in pairs, from fast to slow.
            projection.bias.unflatten(0, (2, -1))[:, : 2 * _FAST] = _HERE
