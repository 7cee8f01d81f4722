# SPDX-License-Identifier: Apache-2.0
"""The four published sizes of SAM 2, for checkpoints that come without a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from transformers import (
    Sam2HieraDetConfig,
    Sam2VideoConfig,
    Sam2VideoMaskDecoderConfig,
    Sam2VideoPromptEncoderConfig,
    Sam2VisionConfig,
)

from pixelrefer_ros.errors import CheckpointError

BLOCKS = "vision_encoder.backbone.blocks."


@dataclass(frozen=True, slots=True)
class HieraSize:
    """What differs between the published image encoders (SAM 2, appendix on model sizes)."""

    width: int
    heads: int
    blocks: tuple[int, int, int, int]
    global_blocks: tuple[int, int, int]
    windows: tuple[int, int, int, int] = (8, 4, 14, 7)
    background: int = 7


SIZES = {
    "tiny": HieraSize(96, 1, (1, 2, 7, 2), (5, 7, 9)),
    "small": HieraSize(96, 1, (1, 2, 11, 2), (7, 10, 13)),
    "base_plus": HieraSize(112, 2, (2, 3, 16, 3), (12, 16, 20), background=14),
    "large": HieraSize(144, 2, (2, 6, 36, 4), (23, 33, 43), windows=(8, 4, 16, 8)),
}


def sam2_config(size: str, *, version: str = "2.1") -> Sam2VideoConfig:
    """Return the config of a published model at 1024 px.

    Args:
        size: a key of `SIZES`.
        version: "2.1", or "2" for the first release, which had neither time encodings of pointers nor
            an embedding of absence.

    Raises:
        CheckpointError: an unknown size.
    """
    if size not in SIZES:
        raise CheckpointError(f"SAM 2 size {size!r}: give one of {', '.join(SIZES)}")
    hiera = SIZES[size]
    widths = [hiera.width * 2**stage for stage in range(4)]
    backbone = Sam2HieraDetConfig(
        hidden_size=hiera.width,
        num_attention_heads=hiera.heads,
        embed_dim_per_stage=widths,
        num_attention_heads_per_stage=[hiera.heads * 2**stage for stage in range(4)],
        blocks_per_stage=list(hiera.blocks),
        global_attention_blocks=list(hiera.global_blocks),
        window_size_per_stage=list(hiera.windows),
        window_positional_embedding_background_size=[hiera.background, hiera.background],
    )
    return Sam2VideoConfig(
        vision_config=Sam2VisionConfig(backbone_config=backbone, backbone_channel_list=widths[::-1]),
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(),
        enable_temporal_pos_encoding_for_object_pointers=version != "2",
        enable_occlusion_spatial_embedding=version != "2",
    )


def config_for_meta(weights: Mapping[str, Tensor], source: str) -> Sam2VideoConfig:
    """Tell from the weights which published model they are.

    Args:
        weights: by their name in `Sam2VideoModel`.
        source: the checkpoint's name for messages.

    Raises:
        CheckpointError: none of the published sizes.
    """
    patches = weights.get("vision_encoder.backbone.patch_embed.projection.weight")
    width = patches.shape[0] if patches is not None else 0
    depth = len({name[len(BLOCKS) :].split(".")[0] for name in weights if name.startswith(BLOCKS)})
    version = "2.1" if "occlusion_spatial_embedding_parameter" in weights else "2"
    for name, hiera in SIZES.items():
        if (hiera.width, sum(hiera.blocks)) == (width, depth):
            return sam2_config(name, version=version)
    raise CheckpointError(
        f"{source}: an image encoder of {depth} blocks, {width} wide, is none of SAM 2's {', '.join(SIZES)}: "
        "convert it to the transformers format"
    )
