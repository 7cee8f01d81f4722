# SPDX-License-Identifier: Apache-2.0
"""What is true of objects in a frame each, as numbers: what signs say, and what readings are judged by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelrefer_ros.training.world import COLORS, NOTHING, SHAPES, SURFACES, TURNS, Sight, neighbors

WHO = (*COLORS, *SHAPES)
"""Words of a neighbour's name."""
SIDES = ("left", "right", "above", "below", "next", "front", "behind")
"""Where somebody may be; the last three: nearest, in front, behind."""
OWN = 3
"""Columns of what an object is; the others are of who is around."""
SHAPE, COLOR, SURFACE = range(OWN)
"""These columns."""
COLUMNS = (len(SHAPES), len(COLORS), len(SURFACES), *(len(WHO) + 3 for _ in SIDES for _ in range(2)))
UNCLEAR, EMPTY = 0, 1
"""In such a column: it cannot be said who is there, or nobody is."""


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


def _named(sight: Sight, number: int, index: int) -> list[int]:
    it = sight.scene.objects[number].combination
    own = [SHAPES.index(it.shape), list(COLORS).index(it.color), SURFACES.index(it.surface)]
    around = neighbors(sight, number, index)
    for side in SIDES:
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
    return 3 + WHO.index(word) if word in WHO else {"unclear": UNCLEAR, NOTHING: EMPTY}.get(word, 2)
