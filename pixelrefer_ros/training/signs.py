# SPDX-License-Identifier: Apache-2.0
"""Signs: object tokens made from what is true of an object, instead of from its picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pixelrefer_ros.training.world import COLORS, NOTHING, SHAPES, SURFACES, TURNS, Sight, neighbors

_WHO = (*COLORS, *SHAPES)
_SIDES = ("left", "right", "above", "below", "next", "front", "behind")
OWN = 3
"""Columns of what an object is; the others are of who is around."""
COLUMNS = (len(SHAPES), len(COLORS), len(SURFACES), *(len(_WHO) + 3 for _ in _SIDES for _ in range(2)))
UNCLEAR, EMPTY = 0, 1
"""In such a column: it cannot be said who is there, or nobody is."""
_MEASURES = 4
_WAVES = (1.0, 2.0, 4.0, 8.0)  # half periods of a share from 0 to 1: near values differ in the fast ones
_STD, _STD_OF_SIDES, _NOISE = 0.2, 0.15, 0.2
_MISREAD = 0.05  # its weight beside the distance


@dataclass(frozen=True, eq=False, slots=True)
class Facts:
    """What is true of V objects in a frame each.

    Attributes:
        named: (V, columns) int64: shape, colour and surface, then who is on each side, two words each.
        measured: (V, 5) float32: the middle (x, y) and the diameter as shares of the frame; the visible
            share; the angle in radians, times the shape's `TURNS`: the same where it looks the same.
    """

    named: Tensor
    measured: Tensor

    @classmethod
    def of(cls, views: Iterable[tuple[Sight, int, int]]) -> Facts:
        """Of objects by what can be seen, their numbers and frames; at least one."""
        seen = list(views)
        named = torch.tensor([_named(*view) for view in seen])
        return cls(named, torch.tensor([_measured(*view) for view in seen]))

    @classmethod
    def joined(cls, parts: Sequence[Facts]) -> Facts:
        """Of the objects of all of them, in order."""
        return cls(torch.cat([part.named for part in parts]), torch.cat([part.measured for part in parts]))

    def __getitem__(self, views: list[int]) -> Facts:
        """Of some of them, each as often as it is named."""
        return Facts(self.named[views], self.measured[views])

    @property
    def somebody(self) -> Tensor:
        """(V, columns) bool: where the column is of a side, and somebody is there."""
        around = torch.arange(self.named.shape[1]) >= OWN
        return around & (self.named != UNCLEAR) & (self.named != EMPTY)

    def alone(self) -> Facts:
        """The same, but it is unclear who is around."""
        own = torch.arange(self.named.shape[1]) < OWN
        return Facts(torch.where(own, self.named, UNCLEAR), self.measured)


class Signs(nn.Module):
    """Learned embeddings of facts, summed."""

    def __init__(self, width: int, count: int) -> None:
        """For a language model ``width`` wide; ``count`` tokens of each object in a frame."""
        super().__init__()
        self._count = count
        self.named = nn.ModuleList(nn.Embedding(size, width) for size in COLUMNS)
        self.measured = nn.Linear(2 * (_MEASURES * len(_WAVES) + 1), width)
        for place, table in enumerate(self.named):
            # Who is around is many more columns: each is a little quieter than what the object itself is.
            std = _STD if place < OWN else _STD_OF_SIDES
            nn.init.normal_(table.weight, std=std)  # type: ignore[arg-type] # an embedding's

    def meaning(self, facts: Facts) -> Tensor:
        """(V, D) float32: what an object's tokens all say."""
        device = self.measured.weight.device
        shares, angle = facts.measured.to(device).split([_MEASURES, 1], dim=1)
        waves = torch.cat(
            [(math.pi * shares[:, :, None] * shares.new_tensor(_WAVES)).flatten(1), angle], dim=1
        )
        said: Tensor = self.measured(torch.cat([waves.sin(), waves.cos()], dim=1))
        for table, column in zip(self.named, facts.named.to(device).unbind(dim=1), strict=True):
            said = said + table(column)
        return said

    def forward(self, facts: Facts) -> Tensor:
        """(V, n, D) float32: tokens, each with noise of its own."""
        tokens = self.meaning(facts)[:, None].expand(-1, self._count, -1)
        return tokens + _NOISE * torch.randn_like(tokens)

    def unlikeness(self, tokens: Tensor, facts: Facts) -> Tensor:
        """How far object tokens are from these: squared distance over the spread of the signs, a scalar.

        Args:
            tokens: (V, n, D), of at least two objects.
            facts: of the same V objects.
        """
        with torch.no_grad():
            meant = self.meaning(facts)
            spread = meant.var(dim=0).sum()
        return (tokens - meant[:, None]).square().sum(dim=-1).mean() / spread

    @torch.no_grad()
    def read(self, tokens: Tensor, facts: Facts) -> Tensor:
        """What object tokens say: of each column the value whose sign is nearest, all else being as it is.

        Args:
            tokens: (V, n, D).
            facts: of the same V objects.

        Returns:
            (V, columns) int64, like ``facts.named``.
        """
        return torch.stack([near.argmax(dim=1) for near in self._nearness(tokens, facts)], dim=1)

    def misread(self, tokens: Tensor, facts: Facts) -> Tensor:
        """The cross-entropy of what is read so, summed over columns and averaged over objects, a scalar.

        The distance alone is least for tokens that say a little of everything that might be true.
        """
        named = facts.named.to(tokens.device)
        lost = tokens.new_zeros(())
        for column, near in enumerate(self._nearness(tokens, facts)):
            truth = named[:, column]
            clear = truth != UNCLEAR if column >= OWN else torch.ones_like(truth, dtype=torch.bool)
            lost = lost + F.cross_entropy(near[clear], truth[clear], reduction="sum")
        return lost / len(named)

    def missed(self, tokens: Tensor, facts: Facts) -> tuple[Tensor, Tensor]:
        """What object tokens learn from, and `unlikeness`: two scalars; see `misread`, too."""
        unlike = self.unlikeness(tokens, facts)
        return unlike + _MISREAD * self.misread(tokens, facts), unlike.detach()

    def _nearness(self, tokens: Tensor, facts: Facts) -> Iterator[Tensor]:
        """(V, values) of each column: half the squared distance to each value's sign, negative."""
        off = tokens.mean(dim=1) - self.meaning(facts)
        for table, truth in zip(self.named, facts.named.to(off.device).unbind(dim=1), strict=True):
            weight: Tensor = table.weight  # type: ignore[assignment] # an embedding's
            yield -torch.cdist(off + weight[truth], weight).square() / 2

    def save(self, path: Path) -> None:
        """Writes the embeddings as safetensors."""
        save_file(self.state_dict(), path)

    def load(self, path: Path) -> Signs:
        """Takes up embeddings that were saved."""
        self.load_state_dict(load_file(path))
        return self


def _named(sight: Sight, number: int, index: int) -> list[int]:
    it = sight.scene.objects[number].combination
    own = [SHAPES.index(it.shape), list(COLORS).index(it.color), SURFACES.index(it.surface)]
    around = neighbors(sight, number, index)
    for side in _SIDES:
        words = (around[side] or "unclear").split()
        own += [_word(words[0]), _word(words[-1])]
    return own


def _measured(sight: Sight, number: int, index: int) -> list[float]:
    scene = sight.scene
    x, y = sight.center(number, index)
    return [
        x / scene.width,
        y / scene.height,
        scene.diameter(number, index),
        float(sight.shares[index, number]),
        TURNS[scene.objects[number].combination.shape] * scene.pose(number, index).angle,
    ]


def _word(word: str) -> int:
    """0 to 2: unclear, nothing, a board; then colours and shapes."""
    return 3 + _WHO.index(word) if word in _WHO else {"unclear": UNCLEAR, NOTHING: EMPTY}.get(word, 2)
