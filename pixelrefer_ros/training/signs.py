# SPDX-License-Identifier: Apache-2.0
"""Signs: object tokens made from what is true of an object, instead of from its picture.

They speak the language model's own words: what an object is, is said by the embeddings of those words, and
who is on a side by the same embeddings turned by a matrix of that side. What the language model has found out
about one word then holds for the others, and on every side.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pixelrefer_ros.model import ChatTokenizer
from pixelrefer_ros.runtime.whole_files import write_tensors
from pixelrefer_ros.training.object_facts import SIDES, WHO, Facts
from pixelrefer_ros.training.world import BOARD, COLORS, NOTHING, SIZES, SURFACES

WORDS = (NOTHING, *BOARD.split(), *WHO, *SURFACES)
"""What signs are made of."""

_LOUD = 0.2  # deviation of each number of a word
_OF_SIDES = 0.75  # who is around is many more words: each is a little quieter than what the object itself is
_OF_MEASURES = 0.7
_NOISE = 0.1
_WAVES = (1.0, 2.0, 4.0)  # half periods of a share from 0 to 1: near values differ in the fast ones
MEASURES = 26
"""Numbers of `measured`."""
_CELLS = 3  # across and down a frame, as in the names of places
_LIMITS = [(below + above) / 2 for (_, below), (above, _) in pairwise(SIZES.values())]
"""Diameters between two words for a size."""


class Signs(nn.Module):
    """Words of what is true, and measures, summed."""

    words: Tensor

    def __init__(self, width: int, count: int) -> None:
        """For a language model ``width`` wide; ``count`` tokens of each object in a frame."""
        super().__init__()
        self._count = count
        self._spoken: tuple[nn.Embedding, Tensor, float] | None = None
        apart = nn.init.orthogonal_(torch.empty(max(width, MEASURES + 12), width)) * _LOUD * math.sqrt(width)
        self.register_buffer("words", _LOUD * torch.randn(len(WORDS), width))
        turned = [nn.init.orthogonal_(torch.empty(width, width)) for _ in SIDES]
        self.sides = nn.Parameter(_OF_SIDES * torch.stack(turned))
        self.unclear = nn.Parameter(torch.zeros(len(SIDES), width))
        self.cell = nn.Parameter(apart[: _CELLS**2].clone())
        self.size = nn.Parameter(apart[9:12].clone())
        self.measured = nn.Parameter(_OF_MEASURES * apart[12 : 12 + MEASURES])

    @classmethod
    def speaking(cls, embedding: nn.Embedding, count: int, tokenizer: ChatTokenizer) -> Signs:
        """Of a language model's own words, with which they change until they are `settled`."""
        signs = cls(embedding.embedding_dim, count)
        tokens = [tokenizer.encode([(f" {word}", False)]) for word in WORDS]
        shares = torch.zeros(len(WORDS), embedding.num_embeddings)
        for place, own in enumerate(tokens):
            for token in own:
                shares[place, token] += 1 / len(own)
        loudness = _LOUD / float(embedding.weight.detach().std())
        signs._spoken = embedding, shares.to(embedding.weight.device), loudness
        return signs

    def settled(self) -> Signs:
        """The same, whose words no longer change with the language model's."""
        self.words = self._words().detach().clone()
        self._spoken = None
        return self

    def _words(self) -> Tensor:
        if self._spoken is None:
            return self.words
        embedding, shares, loudness = self._spoken
        return loudness * (shares @ embedding.weight)

    def _tables(self) -> list[Tensor]:
        """(values, D) of each column of `Facts.named`."""
        words = self._words()
        who = words[3 : 3 + len(WHO)]
        colors, shapes = who[: len(COLORS)], who[len(COLORS) :]
        tables = [shapes, colors, words[3 + len(WHO) :]]
        nothing, gray, board = words[:3]
        silent = torch.zeros_like(nothing)
        for turned, unclear in zip(self.sides, self.unclear, strict=True):
            first, second = torch.stack([nothing, gray]) @ turned, torch.stack([silent, board]) @ turned
            said = who @ turned
            tables.append(torch.cat([unclear[None], first, said]))
            tables.append(torch.cat([silent[None], second, said]))
        return tables

    def meaning(self, facts: Facts) -> Tensor:
        """(V, D) float32: what an object's tokens all say."""
        device = self.sides.device
        measures, cell, size = measured(facts.measured.to(device))
        said = measures @ self.measured + self.cell[cell] + self.size[size]
        for table, column in zip(self._tables(), facts.named.to(device).unbind(dim=1), strict=True):
            said = said + table[column]
        return said

    def forward(self, facts: Facts) -> Tensor:
        """(V, n, D) float32: tokens, each with noise of its own."""
        tokens = self.meaning(facts)[:, None].expand(-1, self._count, -1)
        return tokens + _NOISE * torch.randn_like(tokens)

    def save(self, path: Path) -> None:
        """Writes them as safetensors, with the words as they are now."""
        write_tensors(path, self.state_dict() | {"words": self._words().detach().clone()})

    def load(self, path: Path) -> Signs:
        """Takes up signs that were saved; they are settled."""
        self._spoken = None
        self.load_state_dict(load_file(path))
        return self


def measured(measures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What an object's measures are told by.

    Args:
        measures: (V, 5), see `Facts.measured`.

    Returns:
        (V, 26) float32, numbers that near measures tell apart; (V,) the cell of the 3 x 3 grid; (V,) the
        number of the word for its size.
    """
    x, y, diameter, visible, angle = measures.unbind(dim=1)
    across, down = ((share * _CELLS).long().clamp(0, _CELLS - 1) for share in (x, y))
    size = torch.bucketize(diameter.contiguous(), diameter.new_tensor(_LIMITS))
    large = diameter.log() + 1.6  # about 0 in the middle
    shares = torch.stack([x, y, large], dim=1)
    waves = (math.pi * shares[:, :, None] * shares.new_tensor(_WAVES)).flatten(1)
    turns = torch.stack([angle, 2 * angle], dim=1)
    plain = torch.stack([4 * (x - 0.5), 4 * (y - 0.5), 1.5 * large, 2 * (visible - 0.8)], dim=1)
    told = torch.cat([plain, waves.sin(), waves.cos(), turns.sin(), turns.cos()], dim=1)
    return told, _CELLS * down + across, size
