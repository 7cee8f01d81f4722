# SPDX-License-Identifier: Apache-2.0
"""Where the vision encoder's sizes come from: released folders say it in different places."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import VideoLlama3VisionConfig

from pixelrefer_ros.errors import CheckpointError
from pixelrefer_ros.model.config import PATCH, read_json
from pixelrefer_ros.model.weights import WeightFiles

VISION_PREFIX = "model.vision_encoder.vision_encoder."

_NEEDED = {"hidden_size", "intermediate_size", "num_hidden_layers", "patch_size"}
_PUBLISHED_WIDTH, _PUBLISHED_HEADS = 1152, 16
_LAYER = re.compile(re.escape(VISION_PREFIX) + r"encoder\.layers\.(\d+)\.layer_norm1\.weight")


def read_vision_config(
    folder: Path, fields: Mapping[str, Any], weights: WeightFiles
) -> VideoLlama3VisionConfig:
    """Finds the vision encoder's configuration.

    The first of these that exists is taken: ``vision_config`` in ``config.json``;
    ``vision_config.json`` beside it; ``config.json`` of the folder that ``mm_vision_encoder`` names,
    when that is a folder on this machine. Sizes it lacks are read from the weights' shapes. The
    number of heads leaves no trace in the shapes: it is 16 for the published width of 1152, and
    for any other width it must be written down.

    Raises:
        CheckpointError: no source tells the sizes, or a value is unusable.
    """
    source, given = _given(folder, fields)
    if not given.keys() >= _NEEDED:
        given = _sizes_of_weights(weights) | given
    return vision_config(source, given)


def vision_config(source: Path, given: Mapping[str, Any]) -> VideoLlama3VisionConfig:
    """The configuration from its fields; `source` is named in errors. See `read_vision_config`.

    Raises:
        CheckpointError: a value is missing or unusable.
    """
    names = {field.name for field in dataclasses.fields(VideoLlama3VisionConfig)}
    names -= {"dtype", "transformers_version", "architectures"}
    sizes = {name: value for name, value in given.items() if name in names}
    if "num_attention_heads" not in sizes:
        if sizes.get("hidden_size") != _PUBLISHED_WIDTH:
            raise CheckpointError(
                f"{source} does not give the vision encoder's num_attention_heads, and it cannot be read "
                f"from the weights (width {sizes.get('hidden_size')}, not the published {_PUBLISHED_WIDTH}): "
                'add "vision_config": {"num_attention_heads": ...} to config.json'
            )
        sizes["num_attention_heads"] = _PUBLISHED_HEADS
    try:
        config = VideoLlama3VisionConfig.from_dict(sizes)
    except Exception as error:  # transformers raises several unrelated classes here
        raise CheckpointError(f"{source} is not a usable vision configuration: {error}") from error
    _check_sizes(source, config)
    return config


def _given(folder: Path, fields: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The file that describes the vision encoder, and what it says."""
    inline = fields.get("vision_config")
    if isinstance(inline, dict):
        return folder / "config.json", inline
    candidates = [folder / "vision_config.json"]
    named = fields.get("mm_vision_encoder")
    if isinstance(named, str) and named:
        candidates.append(folder / Path(named).expanduser() / "config.json")
    for path in candidates:
        # The checkpoint's own config.json is not a vision config ("mm_vision_encoder": ".").
        if path.is_file() and path.resolve() != (folder / "config.json").resolve():
            content = read_json(path)
            nested = content.get("vision_config")
            return path, nested if isinstance(nested, dict) else content
    return folder / "config.json", {}


def _sizes_of_weights(weights: WeightFiles) -> dict[str, Any]:
    patch = _shape(weights, VISION_PREFIX + "embeddings.patch_embedding.weight", 4)
    fc1 = _shape(weights, VISION_PREFIX + "encoder.layers.0.mlp.fc1.weight", 2)
    layers = [int(found[1]) for key in weights.names if (found := _LAYER.fullmatch(key))]
    return {
        "hidden_size": patch[0],
        "num_channels": patch[1],
        "patch_size": patch[2],
        "intermediate_size": fc1[0],
        "num_hidden_layers": max(layers, default=0) + 1,
    }


def _shape(weights: WeightFiles, key: str, dimensions: int) -> tuple[int, ...]:
    shape = weights.shape(key)
    if shape is None:
        raise CheckpointError(f"{weights.folder}: the weights lack {key}")
    if len(shape) != dimensions:
        raise CheckpointError(
            f"{weights.folder}: {key} has shape {list(shape)}, expected {dimensions} dimensions"
        )
    return shape


def _check_sizes(source: Path, config: VideoLlama3VisionConfig) -> None:
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        if getattr(config, name) < 1:
            raise CheckpointError(
                f"{source}: the vision {name} is {getattr(config, name)}; it must be at least 1"
            )
    if config.num_channels != 3 or config.patch_size != PATCH:
        raise CheckpointError(
            f"{source}: {config.num_channels} channels and patches of {config.patch_size}; "
            f"PixelRefer has 3 and {PATCH}"
        )
    # The rotary position splits each head in two axes, and each axis in pairs.
    if config.hidden_size % (4 * config.num_attention_heads):
        raise CheckpointError(
            f"{source}: the vision hidden_size {config.hidden_size} is no multiple of 4 x "
            f"num_attention_heads {config.num_attention_heads}"
        )
