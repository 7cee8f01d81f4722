# SPDX-License-Identifier: Apache-2.0
"""Meta's SAM 2 checkpoints: reading them safely, and their weights' names in transformers.

One table holds the names on both sides, so that it can be read in both directions.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pixelrefer_ros.errors import CheckpointError

POINT_LABELS = 4
"""Off the object, on it, and the two corners of a box: one row each."""
META_POINT = "sam_prompt_encoder.point_embeddings.{}.weight"
POINT = "prompt_encoder.point_embed.weight"
PLACE = "prompt_encoder.shared_embedding.positional_embedding"
IMAGE_PLACE = "shared_image_embedding.positional_embedding"
"""transformers keeps the same table a second time, for the picture's grid."""

# Meta's name -> transformers' name; * stands for a number. _LAYERS end in weight or bias on both sides.
_TRUNK, _BACKBONE = "image_encoder.trunk", "vision_encoder.backbone"
_SAM = "sam_mask_decoder"
_TWO_WAY, _TWO_WAY_OURS = f"{_SAM}.transformer", "mask_decoder.transformer"
_EMBED, _EMBED_OURS = "sam_prompt_encoder.mask_downscaling", "prompt_encoder.mask_embed"
_DOWN, _DOWN_OURS = "memory_encoder.mask_downsampler", "memory_encoder.mask_downsampler"
_FUSE, _FUSE_OURS = "memory_encoder.fuser.layers.*", "memory_encoder.memory_fuser.layers.*"

_EXACT = {
    "maskmem_tpos_enc": "memory_temporal_positional_encoding",
    "no_mem_embed": "no_memory_embedding",
    "no_mem_pos_enc": "no_memory_positional_encoding",
    "no_obj_ptr": "no_object_pointer",
    "no_obj_embed_spatial": "occlusion_spatial_embedding_parameter",
    f"{_TRUNK}.pos_embed": f"{_BACKBONE}.pos_embed",
    f"{_TRUNK}.pos_embed_window": f"{_BACKBONE}.pos_embed_window",
    "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": PLACE,
    f"{_FUSE}.gamma": f"{_FUSE_OURS}.scale",
}
_LAYERS = {
    "mask_downsample": "mask_downsample",
    "obj_ptr_tpos_proj": "temporal_positional_encoding_projection_layer",
    f"{_TRUNK}.patch_embed.proj": f"{_BACKBONE}.patch_embed.projection",
    f"{_TRUNK}.blocks.*.norm1": f"{_BACKBONE}.blocks.*.layer_norm1",
    f"{_TRUNK}.blocks.*.norm2": f"{_BACKBONE}.blocks.*.layer_norm2",
    f"{_TRUNK}.blocks.*.attn.qkv": f"{_BACKBONE}.blocks.*.attn.qkv",
    f"{_TRUNK}.blocks.*.attn.proj": f"{_BACKBONE}.blocks.*.attn.proj",
    f"{_TRUNK}.blocks.*.proj": f"{_BACKBONE}.blocks.*.proj",
    f"{_TRUNK}.blocks.*.mlp.layers.0": f"{_BACKBONE}.blocks.*.mlp.proj_in",
    f"{_TRUNK}.blocks.*.mlp.layers.1": f"{_BACKBONE}.blocks.*.mlp.proj_out",
    "image_encoder.neck.convs.*.conv": "vision_encoder.neck.convs.*",
    "sam_prompt_encoder.not_a_point_embed": "prompt_encoder.not_a_point_embed",
    "sam_prompt_encoder.no_mask_embed": "prompt_encoder.no_mask_embed",
    f"{_EMBED}.0": f"{_EMBED_OURS}.conv1",
    f"{_EMBED}.1": f"{_EMBED_OURS}.layer_norm1",
    f"{_EMBED}.3": f"{_EMBED_OURS}.conv2",
    f"{_EMBED}.4": f"{_EMBED_OURS}.layer_norm2",
    f"{_EMBED}.6": f"{_EMBED_OURS}.conv3",
    f"{_TWO_WAY}.norm_final_attn": f"{_TWO_WAY_OURS}.layer_norm_final_attn",
    f"{_TWO_WAY}.layers.*.mlp.layers.0": f"{_TWO_WAY_OURS}.layers.*.mlp.proj_in",
    f"{_TWO_WAY}.layers.*.mlp.layers.1": f"{_TWO_WAY_OURS}.layers.*.mlp.proj_out",
    f"{_SAM}.iou_token": "mask_decoder.iou_token",
    f"{_SAM}.mask_tokens": "mask_decoder.mask_tokens",
    f"{_SAM}.obj_score_token": "mask_decoder.obj_score_token",
    f"{_SAM}.output_upscaling.0": "mask_decoder.upscale_conv1",
    f"{_SAM}.output_upscaling.1": "mask_decoder.upscale_layer_norm",
    f"{_SAM}.output_upscaling.3": "mask_decoder.upscale_conv2",
    f"{_SAM}.conv_s0": "mask_decoder.conv_s0",
    f"{_SAM}.conv_s1": "mask_decoder.conv_s1",
    "memory_attention.norm": "memory_attention.layer_norm",
    "memory_attention.layers.*.linear1": "memory_attention.layers.*.linear1",
    "memory_attention.layers.*.linear2": "memory_attention.layers.*.linear2",
    "memory_encoder.pix_feat_proj": "memory_encoder.feature_projection",
    "memory_encoder.out_proj": "memory_encoder.projection",
    f"{_DOWN}.encoder.12": f"{_DOWN_OURS}.final_conv",
    f"{_FUSE}.dwconv": f"{_FUSE_OURS}.depthwise_conv",
    f"{_FUSE}.norm": f"{_FUSE_OURS}.layer_norm",
    f"{_FUSE}.pwconv1": f"{_FUSE_OURS}.pointwise_conv1",
    f"{_FUSE}.pwconv2": f"{_FUSE_OURS}.pointwise_conv2",
}
# Blocks that occur in several places.
for _stage in range(4):
    _LAYERS[f"{_DOWN}.encoder.{3 * _stage}"] = f"{_DOWN_OURS}.layers.{_stage}.conv"
    _LAYERS[f"{_DOWN}.encoder.{3 * _stage + 1}"] = f"{_DOWN_OURS}.layers.{_stage}.layer_norm"
for _meta, _ours in (
    (f"{_TWO_WAY}.layers.*.self_attn", f"{_TWO_WAY_OURS}.layers.*.self_attn"),
    (f"{_TWO_WAY}.layers.*.cross_attn_token_to_image", f"{_TWO_WAY_OURS}.layers.*.cross_attn_token_to_image"),
    (f"{_TWO_WAY}.layers.*.cross_attn_image_to_token", f"{_TWO_WAY_OURS}.layers.*.cross_attn_image_to_token"),
    (f"{_TWO_WAY}.final_attn_token_to_image", f"{_TWO_WAY_OURS}.final_attn_token_to_image"),
    ("memory_attention.layers.*.self_attn", "memory_attention.layers.*.self_attn"),
    ("memory_attention.layers.*.cross_attn_image", "memory_attention.layers.*.cross_attn_image"),
):
    for _letter in "qkv":
        _LAYERS[f"{_meta}.{_letter}_proj"] = f"{_ours}.{_letter}_proj"
    _LAYERS[f"{_meta}.out_proj"] = f"{_ours}.o_proj"
for _number in (1, 2, 3, 4):
    _LAYERS[f"{_TWO_WAY}.layers.*.norm{_number}"] = f"{_TWO_WAY_OURS}.layers.*.layer_norm{_number}"
    if _number < 4:
        _LAYERS[f"memory_attention.layers.*.norm{_number}"] = f"memory_attention.layers.*.layer_norm{_number}"
for _meta, _ours in (
    ("obj_ptr_proj", "object_pointer_proj"),
    (f"{_SAM}.iou_prediction_head", "mask_decoder.iou_prediction_head"),
    (f"{_SAM}.pred_obj_score_head", "mask_decoder.pred_obj_score_head"),
    (f"{_SAM}.output_hypernetworks_mlps.*", "mask_decoder.output_hypernetworks_mlps.*"),
):
    _LAYERS |= {
        f"{_meta}.layers.{i}": f"{_ours}.{n}" for i, n in enumerate(("proj_in", "layers.0", "proj_out"))
    }

NAMES = _EXACT | {f"{m}.{end}": f"{o}.{end}" for m, o in _LAYERS.items() for end in ("weight", "bias")}


def _compiled(names: Mapping[str, str]) -> list[tuple[re.Pattern[str], str]]:
    """Turn a table of names into patterns, and templates that take their numbers."""
    return [
        (re.compile(re.escape(source).replace(r"\*", r"(\d+)")), target.replace("*", "{}"))
        for source, target in names.items()
    ]


_TO_TRANSFORMERS = _compiled(NAMES)
_TO_META = _compiled({ours: meta for meta, ours in NAMES.items()})


def _renamed(name: str, table: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, template in table:
        if found := pattern.fullmatch(name):
            return template.format(*found.groups())
    return None


def to_transformers(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Give Meta's weights their names in `Sam2VideoModel`.

    Args:
        weights: by Meta's names.
        source: the checkpoint's name for messages.

    Raises:
        CheckpointError: a weight that SAM 2 does not have, or a missing one of those that are merged.
    """
    ours: dict[str, Tensor] = {}
    points = [META_POINT.format(label) for label in range(POINT_LABELS)]
    for name, tensor in weights.items():
        if name in points:
            continue
        renamed = _renamed(name, _TO_TRANSFORMERS)
        if renamed is None:
            raise CheckpointError(
                f"{source}: weight {name} is not one of SAM 2's: give Meta's checkpoint unchanged"
            )
        ours[renamed] = tensor
    for name in (*points, "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"):
        if name not in weights:
            raise CheckpointError(f"{source}: weight {name} is missing: give a whole SAM 2 checkpoint")
    ours[POINT] = torch.cat([weights[name] for name in points])
    ours[IMAGE_PLACE] = ours[PLACE]
    return ours


def to_meta(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the weights of a `Sam2VideoModel` Meta's names: the inverse of `to_transformers`.

    Raises:
        CheckpointError: a weight that SAM 2 does not have.
    """
    meta: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name == IMAGE_PLACE:
            continue
        if name == POINT:
            meta |= {META_POINT.format(label): tensor[label : label + 1] for label in range(POINT_LABELS)}
            continue
        renamed = _renamed(name, _TO_META)
        if renamed is None:
            raise CheckpointError(f"weight {name} is not one of SAM 2's")
        meta[renamed] = tensor
    return meta


def read_meta_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read one of Meta's ``.pt`` files without running anything it contains.

    Returns:
        The weights by their names in `Sam2VideoModel`.

    Raises:
        CheckpointError: the file cannot be read, holds more than tensors, or other weights.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: cannot be read as tensors only ({error})") from error
    weights = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise CheckpointError(f"{path}: does not hold weights by name: give one of Meta's SAM 2 checkpoints")
    return to_transformers(weights, str(path))
