# SPDX-License-Identifier: Apache-2.0
"""Batches of the shapes world."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from pixelrefer_ros.model import ChatTokenizer, PixelReferConfig
from pixelrefer_ros.training.checkpoints import tokenizer_of
from pixelrefer_ros.training.data import Batch, make_batch
from pixelrefer_ros.training.signs import Facts
from pixelrefer_ros.training.stages import Stage
from pixelrefer_ros.training.world import (
    SEED_RANGES,
    Example,
    Renderer,
    Sight,
    Split,
    cast_scene,
    scene_examples,
)


class WorldBatches(Dataset[Batch]):
    """The batches of a stage by number: batch k is the same in any process, on any run.

    Args:
        folder: of the checkpoint, for its tokenizer.
        config: of the model.
        stage: what to show.
        seed: which scenes.
        scenes: per batch.
        split: "train", or "val" to watch the training.
        surroundings: share of context and whole-frame pictures through which the vision encoder learns, drawn
            for every batch. All are seen all the time, and objects' own crops always teach; but most patches
            are surroundings, and backward costs twice what forward does.
    """

    def __init__(
        self,
        folder: Path,
        config: PixelReferConfig,
        stage: Stage,
        *,
        seed: int,
        scenes: int,
        split: Split = "train",
        surroundings: float = 1.0,
    ) -> None:
        """See the class."""
        self._surroundings = surroundings
        self._folder, self._config, self._stage = folder, config, stage
        self._seed, self._scenes, self._split = seed, scenes, split

    @cached_property
    def _tokenizer(self) -> ChatTokenizer:  # made in the worker: it holds a lock, which cannot travel
        return tokenizer_of(self._folder)

    def __getitem__(self, number: int) -> Batch:
        """Draws batch ``number``."""
        examples = self.examples(number)
        batch = make_batch(examples, self._tokenizer, self._config)
        if self._stage.aligned:
            batch = replace(batch, facts=self._facts(examples, batch))
        if self._surroundings < 1:
            rng = np.random.default_rng([self._seed, 5, number])
            drawn = rng.random(len(batch.crops) + len(batch.frames)) < self._surroundings
            batch.learns.extend([True] * len(batch.crops) + drawn.tolist())
        return batch

    def _facts(self, examples: list[Example], batch: Batch) -> Facts:
        scenes = {example.scene_seed for example in examples}
        sights = {seed: Sight(Renderer(cast_scene(seed, self._stage.scene))) for seed in scenes}
        seen: dict[tuple[Hashable, Hashable], tuple[Sight, int, int]] = {
            ((example.scene_seed, index), number): (sights[example.scene_seed], number, index)
            for example in examples
            for number in example.objects
            for index in example.frame_indices
        }
        return Facts.of(seen[name] for name in batch.names)

    def examples(self, number: int) -> list[Example]:
        """The examples of a batch."""
        owned = SEED_RANGES[self._split]
        rng = np.random.default_rng([self._seed, 3, number])
        still = rng.random() < self._stage.stills
        return [
            example
            for scene_seed in rng.integers(owned.start, owned.stop, size=self._scenes)
            for example in scene_examples(
                int(scene_seed),
                self._stage.questions,
                settings=replace(self._stage.scene, frames=1) if still else self._stage.scene,
                kinds=self._stage.kinds + self._stage.lessons,
                moments=1 if still else self._stage.moments,
            )
        ]
