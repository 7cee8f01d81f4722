# SPDX-License-Identifier: Apache-2.0
"""Sequences of several lengths without padding: what a row goes through by itself runs over all at once.

Only attention needs to know which rows belong together. It runs once for each group of sequences of similar
length.

On a CPU products of bfloat16 are compiled for each size they have not had: oneDNN takes 2 to 5 ms to make
ready what then takes 0.2 ms (900 x 256 by 256 x 512, on a processor with AMX). Pictures and prompts are of
any length, so an eighth of a step of reading went there. Numbers of rows and lengths are rounded up there,
and batches taken in powers of two, so that few sizes are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_WASTE = 0.15  # of a group's attention may be padding
_ROWS, _LENGTH = 256, 32  # multiples of these come again


@dataclass(frozen=True, eq=False, slots=True)
class Group:
    """Sequences of similar length, which attend together.

    Attributes:
        lengths: rows of each sequence.
        length: L, of the longest with its padding.
        mask: (B, 1, 1, L) bool, which keys are rows; None where no sequence is padded.
        places: (rows,) where each row lies in the padded (B L); None likewise.
    """

    lengths: Sequence[int]
    length: int
    mask: Tensor | None
    places: Tensor | None

    @property
    def rows(self) -> int:
        """Of all its sequences."""
        return sum(self.lengths)


def known_rows(rows: int, device: torch.device) -> int:
    """So many rows, or a few more where sizes have to come again."""
    return -(-rows // _ROWS) * _ROWS if _compiles_sizes(device) else rows


def groups_of(lengths: Sequence[int], device: torch.device) -> list[Group]:
    """Runs of sequences, sorted by length, in which padding stays small."""
    groups: list[Group] = []
    start = 0
    for end in range(1, len(lengths) + 1):
        if end < len(lengths) and _waste(lengths[start : end + 1]) <= _WASTE:
            continue
        groups.append(_group(lengths[start:end], device))
        start = end
    return groups


def rotate(heads: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions, whose halves are paired: (a, b) -> (a cos - b sin, b cos + a sin).

    Args:
        heads: (rows, ..., width).
        angles: cosines and sines, (rows, ..., width / 2).
    """
    cos, sin = angles
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(heads.dtype)


def attend_in_groups(
    mixed: Tensor, groups: Sequence[Group], scaling: float, *, causal: bool = False
) -> Tensor:
    """What every row finds in its own sequence.

    Args:
        mixed: (rows, 3, heads, width): queries, keys and values; rows after those of the groups are padding.
        groups: in the order of the rows.
        scaling: of the products.
        causal: no row looks at what comes after it.

    Returns:
        (rows, heads width); zeros in the padding.
    """
    padding = len(mixed) - sum(group.rows for group in groups)
    # Split, not sliced: the gradient of each slice would be as large as all rows.
    *parts, _ = mixed.split([*(group.rows for group in groups), padding])
    found = [
        _attend_group(part, group, scaling, causal=causal) for part, group in zip(parts, groups, strict=True)
    ]
    if padding:
        found.append(mixed.new_zeros(padding, mixed[0, 0].numel()))
    return found[0] if len(found) == 1 else torch.cat(found)


def _attend_group(mixed: Tensor, group: Group, scaling: float, *, causal: bool) -> Tensor:
    count = len(group.lengths)
    if group.places is not None:
        padded = mixed.new_zeros(count * group.length, *mixed.shape[1:])
        mixed = padded.index_copy(0, group.places, mixed)
    query, key, value = mixed.unflatten(0, (count, group.length)).permute(2, 0, 3, 1, 4)
    # Padding comes last, where a causal row never looks.
    attended = _attend(query, key, value, None if causal else group.mask, scaling, causal=causal)
    rows = attended.transpose(1, 2).flatten(2).flatten(0, 1)
    return rows if group.places is None else rows.index_select(0, group.places)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, *, causal: bool
) -> Tensor:
    """Scaled dot-product attention (B, heads, L, width).

    In bfloat16 on a CPU as plain products: two times as fast there as the fused kernel in float32, and four
    times as fast as that in bfloat16 (11 x 4 heads, 181 rows, 32 wide, with gradients).
    """
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling, is_causal=causal
        )
    query, length = query * scaling, query.shape[-2]
    later = query.new_full((length, length), float("-inf")).triu(1) if causal else None
    sizes = _powers_of_two(len(query))
    unseen: Sequence[Tensor | None] = [None] * len(sizes)
    if mask is not None:
        unseen = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, float("-inf")).split(sizes)
    found = []
    for ask, look, take, padding in zip(
        query.split(sizes), key.split(sizes), value.split(sizes), unseen, strict=True
    ):
        scores = ask @ look.mT
        # In place: neither gradient needs what the products were.
        if later is not None:
            scores += later
        if padding is not None:
            scores += padding
        found.append(scores.softmax(dim=-1) @ take)
    return found[0] if len(found) == 1 else torch.cat(found)


def _group(lengths: Sequence[int], device: torch.device) -> Group:
    length = -(-lengths[-1] // _LENGTH) * _LENGTH if _compiles_sizes(device) else lengths[-1]
    if lengths[0] == length:
        return Group(lengths, length, None, None)
    filled = torch.arange(length)[None] < torch.tensor(lengths)[:, None]
    places = filled.flatten().nonzero().flatten()
    return Group(lengths, length, filled[:, None, None].to(device), places.to(device))


def _waste(lengths: Sequence[int]) -> float:
    return 1 - sum(lengths) / (len(lengths) * lengths[-1])


def _powers_of_two(count: int) -> list[int]:
    """That sum to it, the largest first."""
    return [1 << power for power in reversed(range(count.bit_length())) if count >> power & 1]


def _compiles_sizes(device: torch.device) -> bool:
    return device.type == "cpu" and torch.is_autocast_enabled("cpu")
