# SPDX-License-Identifier: Apache-2.0
"""What all batches of the shapes world have in common: they are drawn by number."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import numpy as np
from torch.utils.data import Dataset

from pixelrefer_ros.model import ChatTokenizer, PixelReferConfig
from pixelrefer_ros.training.checkpoints import tokenizer_of
from pixelrefer_ros.training.world import SEED_RANGES, Split

Scenes = TypeVar("Scenes", int, tuple[int, int])
Item = TypeVar("Item")


class NumberedBatches(Dataset[Item], Generic[Item, Scenes]):
    """Batch k is the same in any process, on any run.

    Args:
        folder: of the checkpoint, for its tokenizer.
        config: of the model.
        seed: which scenes.
        scenes: per batch.
        split: "train", or "val" to watch the training.
    """

    STREAM: ClassVar[int]
    """Sets the chance of one kind of batches apart from that of others."""

    def __init__(
        self, folder: Path, config: PixelReferConfig, *, seed: int, scenes: Scenes, split: Split = "train"
    ) -> None:
        self._folder, self._config = folder, config
        self._seed, self._split = seed, split
        self._scenes: Scenes = scenes

    @cached_property
    def _tokenizer(self) -> ChatTokenizer:  # made in the worker: it holds a lock, which cannot travel
        return tokenizer_of(self._folder)

    def _chance(self, number: int) -> np.random.Generator:
        """Of batch ``number``."""
        return np.random.default_rng([self._seed, self.STREAM, number])

    def _scene(self, rng: np.random.Generator) -> int:
        """The seed of a scene of the split."""
        owned = SEED_RANGES[self._split]
        return int(rng.integers(owned.start, owned.stop))
