# SPDX-License-Identifier: Apache-2.0
"""The configuration of a PixelRefer-Lite checkpoint: one frozen value read from ``config.json``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from transformers import Qwen2Config, VideoLlama3VisionConfig

from pixelrefer_ros.errors import CheckpointError

PositionReading = Literal["released", "paper"]
"""How the box of an object becomes patch coordinates: see `pixelrefer_ros.model.position`."""

PATCH = 14
"""Side of one square patch of the vision encoder, px."""

PATCH_BUDGET = 4096
"""Default bound on the patches of one object's crop: a 64 x 64 grid, 896 x 896 px.

Compact objects of 30 mask pixels and more stay below it with 32 tokens a region, so that they are
encoded exactly as published.
"""

MODEL_TYPE = "pixelreferlite_qwen2"


@dataclass(frozen=True)
class PixelReferConfig:
    """Everything that shapes the computation.

    Attributes:
        language: the Qwen2 language model.
        vision: the VL3-SigLIP-NaViT vision encoder.
        mask_num: n, the object tokens of one region in one frame.
        region_token_id: the vocabulary's id of ``<REGION>``; None where neither the config nor a
            tokenizer names it (such a model can encode objects but not answer).
        position_reading: "released" for the authors' checkpoints, "paper" for Eq. 4 as printed.
        patch_budget: at most so many patches in one object's crop.
    """

    language: Qwen2Config
    vision: VideoLlama3VisionConfig
    mask_num: int
    region_token_id: int | None = None
    position_reading: PositionReading = "released"
    patch_budget: int = PATCH_BUDGET


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        CheckpointError: the file is missing, is not JSON, or holds something other than an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: the folder is not a complete checkpoint") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__}; a checkpoint has an object there")
    return value


def read_config(folder: Path, fields: Mapping[str, Any], vision: VideoLlama3VisionConfig) -> PixelReferConfig:
    """Builds the configuration of a checkpoint.

    Args:
        folder: where the checkpoint lies; only named in errors.
        fields: the content of its ``config.json``.
        vision: the vision encoder's configuration, found by `read_vision_config`.

    Raises:
        CheckpointError: a field is missing or has an unusable value.
    """
    source = folder / "config.json"
    reading = fields.get("position_reading", "released")
    if reading not in get_args(PositionReading):
        raise CheckpointError(f"{source}: position_reading is {reading!r}; use 'released' or 'paper'")
    config = PixelReferConfig(
        language=_language_config(source, fields),
        vision=vision,
        mask_num=_positive(source, fields, "mask_num", None),
        region_token_id=_region_token_id(source, fields),
        position_reading=reading,
        patch_budget=_positive(source, fields, "patch_budget", PATCH_BUDGET),
    )
    if vision.patch_size != PATCH:
        raise CheckpointError(
            f"{source}: the vision patch_size is {vision.patch_size}; PixelRefer uses {PATCH}"
        )
    if vision.hidden_size % 8:
        raise CheckpointError(
            f"{source}: the vision hidden_size is {vision.hidden_size}; "
            "the object encoder's 8 heads need a multiple of 8"
        )
    return config


def _language_config(source: Path, fields: Mapping[str, Any]) -> Qwen2Config:
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    for name in (*sizes, *(("num_key_value_heads",) if "num_key_value_heads" in fields else ())):
        _positive(source, fields, name, None)
    # transformers keeps unknown fields as attributes: only Qwen2's own may pass.
    known = {field.name for field in dataclasses.fields(Qwen2Config)} | {"rope_theta", "rope_scaling"}
    known -= {"dtype", "transformers_version", "architectures"}
    try:
        config = Qwen2Config.from_dict({name: value for name, value in fields.items() if name in known})
    except Exception as error:  # transformers raises several unrelated classes here
        raise CheckpointError(f"{source} is not a usable Qwen2 configuration: {error}") from error
    if config.hidden_size % config.num_attention_heads:
        raise CheckpointError(
            f"{source}: hidden_size {config.hidden_size} is no multiple of "
            f"num_attention_heads {config.num_attention_heads}"
        )
    return config


def _region_token_id(source: Path, fields: Mapping[str, Any]) -> int | None:
    value = fields.get("region_token_index")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < fields["vocab_size"]:
        raise CheckpointError(
            f"{source}: region_token_index is {value!r}; "
            f"it must be an id below vocab_size {fields['vocab_size']}"
        )
    return value


def _positive(source: Path, fields: Mapping[str, Any], name: str, default: int | None) -> int:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{source}: {name} is {value!r}; it must be a whole number of at least 1")
    return value
