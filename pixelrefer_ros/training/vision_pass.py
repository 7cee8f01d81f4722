# SPDX-License-Identifier: Apache-2.0
"""The vision encoder over many pictures at once, with gradients: the same numbers in less time.

transformers' forward attends picture by picture. Here everything that a patch goes through by itself runs
over all patches of a pass together, and attention runs once per group of pictures of similar length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import VideoLlama3VisionModel

from pixelrefer_ros.model import PATCH, patchify
from pixelrefer_ros.types import RgbImage

PATCHES_PER_PASS = {"cpu": 2048, "cuda": 65536}
"""Patches that go through the encoder together: on a CPU few, so that activations stay in its cache."""

_FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
_WASTE = 0.15  # of a group's attention may be padding


@dataclass(frozen=True, eq=False, slots=True)
class _Group:
    """Pictures of similar length, which attend together.

    Attributes:
        first: the group's first patch in the pass.
        lengths: patches of each picture.
        mask: (B, 1, 1, L) bool, which keys are patches; None where no picture is padded.
        places: (patches,) where each patch lies in the padded (B L) rows; None likewise.
    """

    first: int
    lengths: list[int]
    mask: Tensor | None
    places: Tensor | None

    @property
    def patches(self) -> int:
        return sum(self.lengths)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.lengths), max(self.lengths)


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
    # A convolution whose stride is its kernel is one product per patch, which is far faster as one.
    hidden = F.linear(pixels, embedding.weight.flatten(1), embedding.bias)
    hidden = hidden.to(dtype)  # under autocast what the layers add up stays in float32
    angles = _rotations(vision, pictures)
    groups = _groups([_patches(picture) for picture in pictures], device)
    layers: Any = vision.encoder.layers
    for number, layer in enumerate(layers):
        seen = None if watch is None else partial(watch, number)
        hidden = hidden + _attend(layer.self_attn, layer.layer_norm1(hidden), angles, groups, seen)
        hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
    features: Tensor = vision.post_layernorm(hidden)
    return features


def _attend(
    attention: Any,
    hidden: Tensor,
    angles: tuple[Tensor, Tensor],
    groups: list[_Group],
    watch: Callable[[Tensor], None] | None = None,
) -> Tensor:
    heads, width = attention.num_heads, attention.head_dim
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    weight = torch.cat([projection.weight for projection in projections])
    bias = torch.cat([projection.bias for projection in projections])
    mixed = F.linear(hidden, weight, bias).unflatten(-1, (3, heads, width))
    turned, value = mixed[:, :2], mixed[:, 2:]
    cos, sin = angles
    first, second = turned.chunk(2, dim=-1)
    # Halves are paired, as in the encoder: (a, b) -> (a cos - b sin, b cos + a sin).
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(mixed.dtype)
    mixed = torch.cat((turned, value), dim=1)
    if watch is not None:
        watch(mixed)
    found = [
        _attend_group(mixed[group.first : group.first + group.patches], group, attention.scaling)
        for group in groups
    ]
    projected: Tensor = attention.out_proj(found[0] if len(found) == 1 else torch.cat(found))
    return projected


def _attend_group(mixed: Tensor, group: _Group, scaling: float) -> Tensor:
    """(patches, 3, heads, width) to (patches, heads width)."""
    count, length = group.shape
    if group.places is not None:
        mixed = mixed.new_zeros(count * length, *mixed.shape[1:]).index_copy(0, group.places, mixed)
    query, key, value = mixed.unflatten(0, (count, length)).permute(2, 0, 3, 1, 4)
    mask = None if group.mask is None else group.mask.expand(-1, -1, length, -1)
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        # The fused kernel is faster in float32 than it is, or plain products are, in bfloat16.
        query, key, value = query.float(), key.float(), value.float()
        with torch.autocast("cpu", enabled=False), sdpa_kernel(_FUSED):
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
        attended = attended.to(mixed.dtype)
    else:
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    rows = attended.transpose(1, 2).flatten(2).flatten(0, 1)
    return rows if group.places is None else rows[group.places]


def _rotations(vision: VideoLlama3VisionModel, pictures: list[RgbImage]) -> tuple[Tensor, Tensor]:
    """Cosines and sines (P, 1, 1, width / 2): the encoder's table has the same in both of its halves."""
    device = vision.post_layernorm.weight.device
    sides = torch.arange(max(max(picture.shape[:2]) for picture in pictures) // PATCH, device=device)
    grids = [(picture.shape[0] // PATCH, picture.shape[1] // PATCH) for picture in pictures]
    places = torch.cat(
        [
            torch.stack((sides[:rows].repeat_interleave(columns), sides[:columns].repeat(rows)), dim=-1)
            for rows, columns in grids
        ]
    )
    cos, sin = vision.rotary_pos_emb(sides, places)
    half = cos.shape[-1] // 2
    return cos[:, None, None, :half], sin[:, None, None, :half]


def _groups(lengths: list[int], device: torch.device) -> list[_Group]:
    """Runs of pictures, sorted by length, in which padding stays small."""
    groups: list[_Group] = []
    first = start = 0
    for end in range(1, len(lengths) + 1):
        if end < len(lengths) and _waste(lengths[start : end + 1]) <= _WASTE:
            continue
        own = lengths[start:end]
        groups.append(_group(first, own, device))
        first, start = first + sum(own), end
    return groups


def _group(first: int, lengths: list[int], device: torch.device) -> _Group:
    if lengths[0] == lengths[-1]:
        return _Group(first, lengths, None, None)
    filled = torch.arange(lengths[-1])[None] < torch.tensor(lengths)[:, None]
    places = filled.flatten().nonzero().flatten()
    return _Group(first, lengths, filled[:, None, None].to(device), places.to(device))


def _waste(lengths: list[int]) -> float:
    return 1 - sum(lengths) / (len(lengths) * lengths[-1])


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
