# SPDX-License-Identifier: Apache-2.0
"""Loading SAM 2: folders in the transformers format, Meta's files, hub ids."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import Sam2VideoConfig

from pixelrefer_ros.errors import CheckpointError, ParameterError
from pixelrefer_ros.runtime import file_hash, keep_float32, named_dtype, torch_device
from pixelrefer_ros.runtime.hub import fetch_checkpoint, is_hub_id
from pixelrefer_ros.tracking.meta_checkpoint import read_meta_checkpoint
from pixelrefer_ros.tracking.meta_config import config_for_meta

if TYPE_CHECKING:
    from transformers import Sam2VideoModel

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
_SOURCE = re.compile(r"config\.json|.*\.safetensors(\.index\.json)?|.*\.pt")
IMAGE_SIZE_STEP = 32
"""The window position embedding (8 patches of 4 pixels) must tile the picture."""
MAX_IMAGE_SIZE = 2048


def load_sam2(
    path_or_id: str | Path, *, device: str = "cpu", dtype: str = "float32", image_size: int | None = None
) -> Sam2VideoModel:
    """Load a SAM 2 model for inference; arguments as `StreamTracker.from_pretrained`.

    Raises:
        CheckpointError: there is no checkpoint there, or a file, field, weight or shape is wrong.
        ParameterError: a setting outside its choices.
    """
    place, number = torch_device(device), named_dtype(dtype)
    path = locate_sam2(path_or_id)
    config, weights = _read(path)
    if image_size is not None:
        set_image_size(config, image_size)
    model = build_model(config, weights, source=str(path), dtype=number).to(place)
    keep_float32(place, number)
    return model


def locate_sam2(path_or_id: str | Path) -> Path:
    """Find a checkpoint here, or fetch it from the hub; return its folder or file.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(path_or_id).expanduser()
    if path.exists():
        return path
    if not isinstance(path_or_id, str) or not is_hub_id(path_or_id):
        raise CheckpointError(f"{path_or_id}: no such file or folder, and no hub id (owner/name)")
    return fetch_checkpoint(path_or_id, ["config.json", "*.safetensors", WEIGHTS_INDEX])


def source_hash(path: Path) -> str:
    """Hex SHA-256 over a checkpoint's files, config and weights, wherever they lie.

    Args:
        path: of `locate_sam2`.
    """
    files = [path] if path.is_file() else sorted(f for f in path.iterdir() if _SOURCE.fullmatch(f.name))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name if path.is_dir() else ''}:{file_hash(file)}\n".encode())
    return digest.hexdigest()


def set_image_size(config: Sam2VideoConfig, image_size: int) -> None:
    """Change the side of the model's square input; five fields of the config hold it.

    Raises:
        ParameterError: not a multiple of 32 in [32, 2048].
    """
    if not IMAGE_SIZE_STEP <= image_size <= MAX_IMAGE_SIZE or image_size % IMAGE_SIZE_STEP:
        raise ParameterError(
            f"image_size is {image_size}: give a multiple of {IMAGE_SIZE_STEP} up to {MAX_IMAGE_SIZE}"
        )
    config.image_size = image_size
    config.prompt_encoder_config.image_size = image_size
    config.vision_config.backbone_config.image_size = [image_size, image_size]
    config.vision_config.backbone_feature_sizes = [[image_size // step] * 2 for step in (4, 8, 16)]
    config.memory_attention_rope_feat_sizes = [image_size // 16] * 2


def build_model(
    config: Sam2VideoConfig, weights: Mapping[str, Tensor], *, source: str, dtype: torch.dtype
) -> Sam2VideoModel:
    """Put weights into a model, in evaluation mode, on the CPU.

    Args:
        config: of the model.
        weights: by their name in `Sam2VideoModel`; names that the model lacks are left out.
        source: the checkpoint's name for messages.
        dtype: of the weights; the point embedding stays float32, see `MaskDecoder`.

    Raises:
        CheckpointError: a weight is missing, or its shape differs.
    """
    # Not above: transformers' models take seconds and 120 MB to import, and exported graphs need none.
    from transformers import Sam2VideoModel

    with torch.device("meta"):
        model = Sam2VideoModel(config)
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in weights]
    if missing:
        raise CheckpointError(
            f"{source}: weight {missing[0]} is missing ({len(missing)} of {len(wanted)} are): "
            "give a whole SAM 2 video checkpoint"
        )
    for name, tensor in wanted.items():
        if weights[name].shape != tensor.shape:
            raise CheckpointError(
                f"{source}: weight {name} has shape {tuple(weights[name].shape)}, the config asks for "
                f"{tuple(tensor.shape)}: give the config that belongs to these weights"
            )
    state = {
        name: weights[name].to(torch.float32 if name.endswith("positional_embedding") else dtype)
        for name in wanted
    }
    model.load_state_dict(state, assign=True)
    _make_positions(model, config)
    return model.eval().requires_grad_(False)


def _make_positions(model: Sam2VideoModel, config: Sam2VideoConfig) -> None:
    """Compute the buffers that no checkpoint holds; the rest of the model came from the file."""
    attention = model.memory_attention
    attention.rotary_emb = type(attention.rotary_emb)(config=config)
    attention.position_ids = torch.nn.Buffer(attention.precompute_positions(config), persistent=False)
    left = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    if left:
        raise CheckpointError(
            f"this version of transformers keeps {left[0]} outside the checkpoint: use the pinned one"
        )


def _read(path: Path) -> tuple[Sam2VideoConfig, dict[str, Tensor]]:
    if path.is_file() and path.suffix == ".pt":
        weights = read_meta_checkpoint(path)
        return config_for_meta(weights, str(path)), weights
    if path.is_file():
        raise CheckpointError(f"{path}: give a folder in the transformers format, or one of Meta's .pt files")
    if (path / "config.json").is_file():
        return _read_config(path / "config.json"), _read_safetensors(path)
    meta = sorted(path.glob("*.pt"))
    if len(meta) == 1:
        return _read(meta[0])
    raise CheckpointError(
        f"{path}: no config.json: give a folder in the transformers format, or one of Meta's .pt files"
    )


def _read_config(path: Path) -> Sam2VideoConfig:
    try:
        fields = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from error
    kind = fields.get("model_type") if isinstance(fields, dict) else None
    if kind != "sam2_video":
        raise CheckpointError(f"{path}: model_type is {kind!r}: give a SAM 2 video model (sam2_video)")
    try:
        return Sam2VideoConfig.from_dict(fields)
    except Exception as error:  # transformers checks fields with errors of several libraries
        raise CheckpointError(f"{path}: not a SAM 2 video config ({error})") from error


def _read_safetensors(folder: Path) -> dict[str, Tensor]:
    if (folder / WEIGHTS).is_file():
        names = [WEIGHTS]
    elif (folder / WEIGHTS_INDEX).is_file():
        try:
            names = sorted(set(json.loads((folder / WEIGHTS_INDEX).read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(
                f"{folder / WEIGHTS_INDEX}: no weight_map of file names ({error!r})"
            ) from error
    else:
        raise CheckpointError(
            f"{folder}: neither {WEIGHTS} nor {WEIGHTS_INDEX}: pickled weights are not read"
        )
    weights: dict[str, Tensor] = {}
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{folder / WEIGHTS_INDEX}: {name!r} is not a file name of the folder")
        try:
            weights.update(load_file(folder / name))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{folder / name}: cannot be read ({error})") from error
    return weights
