# SPDX-License-Identifier: Apache-2.0
"""Training, validation and test scenes: disjoint seeds, and combinations that training never shows.

A scene is its seed. Each split owns a range of seeds; `scene_seeds` draws from it, so a user's small seed
(0, 1, 2 ...) names a set of scenes in that range and can never reach another split's.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from pixelrefer_ros.training.world.vocabulary import COMBINATIONS, SHAPES, Combination

Split = Literal["train", "val", "test"]

SEED_RANGES: dict[Split, range] = {
    "train": range(0, 1 << 40),
    "val": range(1 << 40, 2 << 40),
    "test": range(2 << 40, 3 << 40),
}
"""Scene seeds of each split."""

HELD_OUT_SEED = 2510
"""The seed of the held-out combinations. Changing it makes every published score meaningless."""
HELD_OUT_SHARE = 0.2


def _held_out() -> frozenset[Combination]:
    rng = np.random.default_rng(HELD_OUT_SEED)
    chosen: list[Combination] = []
    for shape in SHAPES:  # the same number of every shape, so that none becomes rare in training
        own = [combination for combination in COMBINATIONS if combination.shape == shape]
        count = round(HELD_OUT_SHARE * len(own))
        chosen += [own[i] for i in rng.choice(len(own), size=count, replace=False)]
    return frozenset(chosen)


UNSEEN = _held_out()
"""70 of the 360 combinations: only ever drawn where a scene asks for ``"unseen"`` ones."""
SEEN = frozenset(COMBINATIONS) - UNSEEN
"""The combinations of training, validation and the first column of the scores."""


def scene_seeds(split: Split, seed: int, count: int) -> list[int]:
    """The seeds of ``count`` scenes of a split.

    Args:
        split: whose range they come from.
        seed: any non-negative number; the same one gives the same scenes, and a longer list starts with
            the shorter one.
        count: how many.
    """
    owned = SEED_RANGES[split]
    rng = np.random.default_rng([list(SEED_RANGES).index(split), seed])
    return [int(value) for value in rng.integers(owned.start, owned.stop, size=count)]


def split_of(scene_seed: int) -> Split:
    """The split a scene belongs to.

    Raises:
        ValueError: the seed is in no split's range.
    """
    for split, owned in SEED_RANGES.items():
        if scene_seed in owned:
            return split
    raise ValueError(f"scene seed {scene_seed} is in no split: use scene_seeds()")
