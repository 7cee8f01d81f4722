# SPDX-License-Identifier: Apache-2.0
"""The language model over many prompts at once, with gradients: the same numbers in less time.

transformers' forward takes rows of one length, padded. Here the tokens of all prompts run together, without
padding, see `packed_rows`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelrefer_ros.training.fused import fused
from pixelrefer_ros.training.packed_rows import attend_in_groups, groups_of, known_rows, rotate
from pixelrefer_ros.training.text_rows import TextRows

TOKENS_PER_PASS = {"cpu": 2048, "cuda": 32768}
"""Tokens that go through the model together: on a CPU few, so that activations stay in its cache."""


@dataclass(frozen=True, eq=False, slots=True)
class Packed:
    """The T tokens of B prompts without their padding, the shortest prompt first.

    Attributes:
        rows: (T,) int64, the prompt of each.
        columns: (T,) int64, its place there.
        lengths: tokens of each prompt, ascending.
    """

    rows: Tensor
    columns: Tensor
    lengths: list[int]

    @classmethod
    def of(cls, text: TextRows) -> Packed:
        """The same for the same prompts."""
        order = text.length.argsort(stable=True)
        lengths = text.length[order]
        starts = lengths.cumsum(0) - lengths
        columns = torch.arange(int(lengths.sum())) - starts.repeat_interleave(lengths)
        return cls(order.repeat_interleave(lengths), columns, lengths.tolist())

    def of_token(self, rows: Tensor) -> Tensor:
        """(T, ...) of (B, L, ...)."""
        return rows[self.rows, self.columns]

    def in_reading_order(self, which: Tensor) -> Tensor:
        """The places (K,) of the chosen ones of T tokens, prompt after prompt in the order of the batch."""
        places = which.nonzero().flatten()
        width = int(self.columns.max()) + 1
        return places[(self.rows[places] * width + self.columns[places]).argsort()]


def encode_rows(
    model: Any, embeddings: Tensor, packed: Packed, after: Sequence[int] = ()
) -> tuple[Tensor, list[Tensor]]:
    """Hidden states of prompts, as the model's own forward computes them.

    Args:
        model: a `Qwen2Model` whose layers all attend to everything before.
        embeddings: (T, D), of the packed tokens.
        packed: where they belong.
        after: numbers of layers.

    Returns:
        The last hidden states (T, D), and those after so many layers; those after all are the last ones.
    """
    passes = list(_passes(packed.lengths, TOKENS_PER_PASS.get(embeddings.device.type, 32768)))
    parts = embeddings.split([sum(lengths) for lengths in passes])
    found = [_encode(model, part, lengths, after) for part, lengths in zip(parts, passes, strict=True)]
    last, *kept = (torch.cat(states) for states in zip(*found, strict=True))
    return last, kept


def _encode(model: Any, embeddings: Tensor, lengths: list[int], after: Sequence[int]) -> list[Tensor]:
    tokens, device = len(embeddings), embeddings.device
    hidden = F.pad(embeddings, (0, 0, 0, known_rows(tokens, device) - tokens))
    columns = torch.cat([torch.arange(length) for length in lengths])
    columns = F.pad(columns, (0, len(hidden) - tokens)).to(device)
    cos, sin = model.rotary_emb(hidden, columns[None])
    half = cos.shape[-1] // 2  # the table has the same in both of its halves
    angles = cos[0, :, None, :half], sin[0, :, None, :half]
    groups = groups_of(lengths, device)
    states = []
    for layer in model.layers:
        mixed = _mix(layer, hidden, angles)
        attended = attend_in_groups(mixed, groups, layer.self_attn.scaling, causal=True)
        hidden = _go_on(layer, hidden, attended)
        states.append(hidden)
    states[-1] = model.norm(hidden)
    return [states[layer - 1][:tokens] for layer in (len(states), *after)]


@fused
def _mix(layer: Any, hidden: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """(rows, 3, heads, width): queries, keys and values."""
    attention, normed = layer.self_attn, layer.input_layernorm(hidden)
    query, key, value = (
        project(normed).unflatten(-1, (-1, attention.head_dim))
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    query, key = rotate(query, angles), rotate(key, angles)
    shared = query.shape[1] // key.shape[1]  # heads that look for the same keys
    key, value = (one.repeat_interleave(shared, dim=1) for one in (key, value))
    return torch.stack((query, key, value), dim=1)


@fused
def _go_on(layer: Any, hidden: Tensor, attended: Tensor) -> Tensor:
    """(rows, D): with what attention found, and the hidden layer."""
    hidden = hidden + layer.self_attn.o_proj(attended)
    added: Tensor = layer.mlp(layer.post_attention_layernorm(hidden))
    return hidden + added


def _passes(lengths: list[int], most: int) -> Iterator[list[int]]:
    """Runs of prompts with so many tokens at most, or one prompt."""
    start = 0
    sums = [0, *itertools.accumulate(lengths)]
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or sums[end + 1] - sums[start] > most:
            yield lengths[start:end]
            start = end
