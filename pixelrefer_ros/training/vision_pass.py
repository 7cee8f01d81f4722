# SPDX-License-Identifier: Apache-2.0
"""The vision encoder over many pictures at once, with gradients: the same numbers in less time.

transformers' forward attends picture by picture. Here everything that a patch goes through by itself runs
over all patches of a pass together, and attention runs once per group of pictures of similar length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import VideoLlama3VisionModel

from pixelrefer_ros.model import PATCH, patchify
from pixelrefer_ros.training.fused import fused
from pixelrefer_ros.training.packed_rows import attend_in_groups, groups_of, known_rows, rotate
from pixelrefer_ros.types import RgbImage

PATCHES_PER_PASS = {"cpu": 2048, "cuda": 65536}
"""Patches that go through the encoder together: on a CPU few, so that activations stay in its cache."""

Watch = Callable[[Sequence[int], int, Tensor], None]
"""Is shown the numbers of pictures, a layer's number, and (patches of all of them, 3, heads, width): rotated
queries, rotated keys, and values."""


def encode_pictures(
    vision: VideoLlama3VisionModel, pictures: Sequence[RgbImage], watch: Watch | None = None
) -> list[Tensor]:
    """Features of pictures, as the encoder's own forward computes them.

    Args:
        vision: the encoder; merges no patches (PixelRefer never does).
        pictures: each (14 h, 14 w, 3) uint8 RGB.
        watch: is shown what attends to what.

    Returns:
        One (h w, D_v) per picture, in float32 under autocast, otherwise of the weights' dtype.
    """
    weight = vision.post_layernorm.weight
    found: list[Tensor | None] = [None] * len(pictures)
    order = sorted(range(len(pictures)), key=lambda i: _patches(pictures[i]))  # like lengths side by side
    for numbers in _passes(order, pictures, PATCHES_PER_PASS.get(weight.device.type, 65536)):
        chosen = [pictures[number] for number in numbers]
        seen = None if watch is None else partial(watch, numbers)
        features = _encode(vision, chosen, seen).split([_patches(picture) for picture in chosen])
        for number, feature in zip(numbers, features, strict=True):
            found[number] = feature
    return [feature for feature in found if feature is not None]


def _encode(
    vision: VideoLlama3VisionModel,
    pictures: list[RgbImage],
    watch: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    embedding = vision.embeddings.patch_embedding
    device, dtype = embedding.weight.device, embedding.weight.dtype
    pixels = torch.cat([patchify(picture, device=device) for picture in pictures]).to(dtype)
    patches, rows = len(pixels), known_rows(len(pixels), device)
    pixels = F.pad(pixels, (0, 0, 0, rows - patches))
    # A convolution whose stride is its kernel is one product per patch, which is far faster as one.
    hidden = F.linear(pixels, embedding.weight.flatten(1), embedding.bias)
    hidden = hidden.to(dtype)  # under autocast what the layers add up stays in float32
    angles = _rotations(vision, pictures, rows)
    groups = groups_of([_patches(picture) for picture in pictures], device)
    layers: Any = vision.encoder.layers
    for number, layer in enumerate(layers):
        mixed = _mix(layer, hidden, angles)
        if watch is not None:
            watch(number, mixed[:patches])
        hidden = _go_on(layer, hidden, attend_in_groups(mixed, groups, layer.self_attn.scaling))
    features: Tensor = vision.post_layernorm(hidden[:patches])
    return features


@fused
def _mix(layer: Any, hidden: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """(rows, 3, heads, width): queries, keys and values."""
    attention = layer.self_attn
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    weight = torch.cat([projection.weight for projection in projections])
    bias = torch.cat([projection.bias for projection in projections])
    mixed = F.linear(layer.layer_norm1(hidden), weight, bias)
    mixed = mixed.unflatten(-1, (3, attention.num_heads, attention.head_dim))
    return torch.cat((rotate(mixed[:, :2], angles), mixed[:, 2:]), dim=1)


@fused
def _go_on(layer: Any, hidden: Tensor, attended: Tensor) -> Tensor:
    """(rows, D_v): with what attention found, and the hidden layer."""
    hidden = hidden + layer.self_attn.out_proj(attended)
    added: Tensor = layer.mlp(layer.layer_norm2(hidden))
    return hidden + added


def _rotations(vision: VideoLlama3VisionModel, pictures: list[RgbImage], rows: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (rows, 1, 1, width / 2): the encoder's table has the same in both of its halves."""
    device = vision.post_layernorm.weight.device
    sides = torch.arange(max(max(picture.shape[:2]) for picture in pictures) // PATCH, device=device)
    grids = [(picture.shape[0] // PATCH, picture.shape[1] // PATCH) for picture in pictures]
    places = torch.cat(
        [
            torch.stack((sides[:rows].repeat_interleave(columns), sides[:columns].repeat(rows)), dim=-1)
            for rows, columns in grids
        ]
    )
    cos, sin = vision.rotary_pos_emb(sides, F.pad(places, (0, 0, 0, rows - len(places))))
    half = cos.shape[-1] // 2
    return cos[:, None, None, :half], sin[:, None, None, :half]


def _passes(order: list[int], pictures: Sequence[RgbImage], most: int) -> Iterator[list[int]]:
    group: list[int] = []
    patches = 0
    for number in order:
        size = _patches(pictures[number])
        if group and patches + size > most:
            yield group
            group, patches = [], 0
        group.append(number)
        patches += size
    if group:
        yield group


def _patches(picture: RgbImage) -> int:
    return (picture.shape[0] // PATCH) * (picture.shape[1] // PATCH)
