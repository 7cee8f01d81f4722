# SPDX-License-Identifier: Apache-2.0
"""The weights with which a new PixelRefer-Lite begins: random, but for what is certainly needed.

The paper starts from SigLIP and Qwen2, which have learned from billions of pictures and words. A small model
that is trained from nothing on two cores learns in a fraction of the time if it need not find out by itself
that neighbouring patches belong together, or that a word can be handed on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import Qwen2ForCausalLM, VideoLlama3VisionModel

from pixelrefer_ros.model import EMBEDDINGS, PixelReferNetwork

_WORDS = 0.06
"""Deviation of embeddings of a new language model."""
_QUIET = 0.2
_CHROMA_LATER = 2.5  # colours are seen as coarsely as brightness is at so many half waves more
_LOUDEST = 6.0
_NEIGHBORS = ((0, 1), (1, 0), (0, -1), (-1, 0))
_DIAGONALS = ((1, 1), (1, -1), (-1, 1), (-1, -1))
_FAR = 5
_BY_PLACE = (
    # offsets (rows, columns) of a layer's heads; loudness; which rotations; what is left of content
    (_NEIGHBORS, 4.0, (0, 1, 2), 0.5),
    (_DIAGONALS, 4.0, (0, 1, 2), 0.5),
    (tuple((2 * down, 2 * across) for down, across in _NEIGHBORS), 3.5, (0, 1, 2), 0.6),
    (tuple((_FAR * down, _FAR * across) for down, across in _NEIGHBORS), 3.5, (1, 2), 0.7),
)


def draw_weights(network: PixelReferNetwork) -> None:
    """Draws all weights anew: truncated normal with the usual 1 / sqrt(fan in), then what is surely needed.

    transformers' fixed deviation of 0.02 suits models much wider.
    """
    for module in (network.vision, network.object_encoder, network.language):
        for name, parameter in module.named_parameters():
            if parameter.dim() >= 2:
                spread = _WORDS if name == EMBEDDINGS else 1 / math.sqrt(parameter[0].numel())
                nn.init.trunc_normal_(parameter, std=spread, a=-2 * spread, b=2 * spread)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
    _let_copy(network.language)
    _let_match(network.language)
    _see_waves(network.vision.embeddings.patch_embedding)
    _look_near(network.vision)


@torch.no_grad()
def _let_copy(language: Qwen2ForCausalLM) -> None:
    """Lets attention hand on what it looks at: each head's output is the transpose of its values.

    A question is mostly answered by a word that object tokens say. With random outputs, to hand it on is
    learned word by word; so it is there from the beginning, and hidden layers begin quietly.
    """
    for layer in language.model.layers:
        attention: Any = layer.self_attn
        values = attention.v_proj.weight.unflatten(0, (-1, attention.head_dim))
        output = attention.o_proj.weight.unflatten(1, (-1, attention.head_dim))
        for head in range(output.shape[1]):
            output[:, head] = values[head // attention.num_key_value_groups].T
        layer.mlp.down_proj.weight.mul_(_QUIET)


@torch.no_grad()
def _let_match(language: Qwen2ForCausalLM) -> None:
    """Lets a half of every layer's heads look for what is alike, elsewhere.

    Whether a word has been said before, or an object is what a word says, decides yes or no, and which letter
    a choice has. Queries are keys, so that what is alike attends to each other; but for the pairs of numbers
    that rotate fastest with the distance, which count against it: at no distance, and only there, the two
    cancel.
    """
    for layer in language.model.layers:
        attention: Any = layer.self_attn
        half, groups = attention.head_dim // 2, attention.num_key_value_groups
        keys = attention.k_proj.weight.unflatten(0, (-1, attention.head_dim))
        queries = attention.q_proj.weight.unflatten(0, (-1, attention.head_dim))
        fast = max(1, half // 4)
        signs = torch.ones(attention.head_dim)
        signs[:fast] = signs[half : half + fast] = -(half - fast) / fast
        for head in range(len(keys) // 2):
            queries[groups * head : groups * (head + 1)] = signs[:, None] * keys[head]


@torch.no_grad()
def _see_waves(embedding: nn.Conv2d) -> None:
    """Lets each number of a patch's embedding be one wave, of brightness or colour, coarse ones first.

    Random filters are mostly noise to pictures, whose neighbouring pixels are alike. Fine waves are weak in
    pictures, and are amplified as much.
    """
    width, _, side, _ = embedding.weight.shape
    colors = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [1.0, 1.0, -2.0]])
    colors = colors / colors.norm(dim=1, keepdim=True)
    places = (torch.arange(side) + 0.5) * math.pi / side
    waves = torch.stack([(order * places).cos() * math.sqrt(2 / side) for order in range(side)])
    waves[0] /= math.sqrt(2)
    coarse_first = sorted(
        (math.hypot(down, across) + _CHROMA_LATER * (color > 0), color, down, across)
        for color in range(len(colors))
        for down in range(side)
        for across in range(side)
    )
    for place, (_, color, down, across) in enumerate(coarse_first[:width]):
        loud = min(_LOUDEST, (1 + math.hypot(down, across)) * (0.5 if color == 0 else 1.0))
        wave = waves[down][:, None] * waves[across]
        embedding.weight[place] = loud * colors[color][:, None, None] * wave


@torch.no_grad()
def _look_near(vision: VideoLlama3VisionModel) -> None:
    """Lets the first layers' heads look at neighbours: next ones, diagonal ones, then further ones.

    Like convolutions, which a shape is seen by soonest. Biases of queries and keys, rotated by their places,
    attend to an offset; what patches show adds to it.
    """
    layers: Any = vision.encoder.layers
    speeds = vision.rotary_pos_emb.inv_freq.tolist()
    for layer, (offsets, loud, rotations, content) in zip(layers, _BY_PLACE, strict=False):
        attention = layer.self_attn
        attention.q_proj.weight.mul_(content)
        attention.k_proj.weight.mul_(content)
        known = {rotation: speeds[rotation] for rotation in rotations if rotation < len(speeds)}
        _attend_to(attention, offsets, loud, known)


def _attend_to(
    attention: Any, offsets: Sequence[tuple[int, int]], loud: float, speeds: Mapping[int, float]
) -> None:
    """Sets the biases. Halves of a head are paired; of each half, rows come first, then columns."""
    half = attention.head_dim // 2
    queries = attention.q_proj.bias.unflatten(0, (-1, attention.head_dim))
    keys = attention.k_proj.bias.unflatten(0, (-1, attention.head_dim))
    for head in range(len(queries)):
        for first, along in zip((0, half // 2), offsets[head % len(offsets)], strict=True):
            for rotation, speed in speeds.items():
                queries[head, first + rotation] = loud
                keys[head, first + rotation] = loud * math.cos(speed * along)
                keys[head, first + rotation + half] = -loud * math.sin(speed * along)
