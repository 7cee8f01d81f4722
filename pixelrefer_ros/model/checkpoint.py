# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint folder to loaded networks: every needed weight checked, then read straight into place."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from pixelrefer_ros.errors import CheckpointError
from pixelrefer_ros.model.config import PixelReferConfig, read_config, read_json
from pixelrefer_ros.model.network import PixelReferNetwork
from pixelrefer_ros.model.object_encoder import ObjectEncoder
from pixelrefer_ros.model.tokenizer import TOKENIZER_FILES, ChatTokenizer, has_tokenizer
from pixelrefer_ros.model.vision_config import VISION_PREFIX, read_vision_config
from pixelrefer_ros.model.weights import WeightFiles
from pixelrefer_ros.runtime import keep_float32

REGION_PREFIX = "model.region_encoder."
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"

_LISTED = 5  # problems spelled out in one message
_CHUNK = 1 << 22


def load_network(folder: Path, *, device: torch.device, dtype: torch.dtype) -> PixelReferNetwork:
    """Loads the networks of a checkpoint folder in the released layout.

    The folder may be sharded. It needs no tokenizer if the config names the id of ``<REGION>``. ``lm_head``
    may be absent: the embeddings then serve for it. Keys that are not needed (``mm_projector``,
    ``mask_embedding``) are left unread.

    Raises:
        CheckpointError: a field, file, key or shape is missing or wrong; the message names all of them.
    """
    # Not above: transformers' models take seconds and 120 MB to import, and exported graphs need none.
    from transformers import Qwen2ForCausalLM, VideoLlama3VisionModel

    fields = read_json(folder / "config.json")
    weights = WeightFiles(folder)
    config = read_config(folder, fields, read_vision_config(folder, fields, weights))
    if config.region_token_id is None and has_tokenizer(folder):
        config = dataclasses.replace(config, region_token_id=ChatTokenizer(folder).region_id)
    if weights.shape(HEAD) is None and not config.language.tie_word_embeddings:
        config.language.tie_word_embeddings = True
    with torch.device("meta"):
        vision = VideoLlama3VisionModel(config.vision)
        encoder = ObjectEncoder(config.vision.hidden_size, config.language.hidden_size, config.mask_num)
        language = Qwen2ForCausalLM(config.language)
    prefixes: dict[nn.Module, str] = {vision: VISION_PREFIX, encoder: REGION_PREFIX, language: ""}
    _check(
        weights, [wanted for module, prefix in prefixes.items() for wanted in _wanted(module, prefix, config)]
    )
    for module, prefix in prefixes.items():
        _fill(module, prefix, weights, config, device=device, dtype=dtype)
    if config.language.tie_word_embeddings:
        language.lm_head.weight = language.model.embed_tokens.weight
    # Tables that no checkpoint holds: made anew, since those on the meta device have no values.
    vision.rotary_pos_emb = type(vision.rotary_pos_emb)(config.vision).to(device)
    language.model.rotary_emb = type(language.model.rotary_emb)(config.language).to(device)
    for module in prefixes:
        module.eval().requires_grad_(False)
    keep_float32(device, dtype)
    return PixelReferNetwork(config=config, vision=vision, object_encoder=encoder, language=language)


def content_hash(folder: Path) -> str:
    """Hex SHA-256 over the config, weight and tokenizer files (names and bytes) of a checkpoint folder."""
    digest = hashlib.sha256()
    names = ["config.json", "vision_config.json", *TOKENIZER_FILES]
    paths = [folder / name for name in names if (folder / name).is_file()]
    buffer = memoryview(bytearray(_CHUNK))
    for path in [*paths, *WeightFiles(folder).files]:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
    return digest.hexdigest()


def _wanted(
    module: nn.Module, prefix: str, config: PixelReferConfig
) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, value in module.state_dict().items():
        key = prefix + name
        if key != HEAD or not config.language.tie_word_embeddings:
            yield key, tuple(value.shape)


def _check(weights: WeightFiles, wanted: list[tuple[str, tuple[int, ...]]]) -> None:
    problems = []
    for key, expected in wanted:
        found = weights.shape(key)
        if found is None:
            problems.append(f"{key} is missing (expected shape {list(expected)})")
        elif found != expected:
            problems.append(f"{key} has shape {list(found)}, expected {list(expected)}")
    if problems:
        more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise CheckpointError(
            f"{weights.folder}: {'; '.join(problems[:_LISTED])}{more}: "
            "the weights do not fit config.json, or the download is not complete"
        )


def _fill(
    module: nn.Module,
    prefix: str,
    weights: WeightFiles,
    config: PixelReferConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Puts the weights in, module by module, so that at most one tensor exists twice."""
    for name, owner in module.named_modules():
        own = {key: value for key, value in owner.named_parameters(recurse=False)}
        for key in own:
            full = f"{prefix}{name}.{key}" if name else prefix + key
            if full == HEAD and config.language.tie_word_embeddings:
                continue
            setattr(
                owner, key, nn.Parameter(weights.read(full, dtype=dtype, device=device), requires_grad=False)
            )
