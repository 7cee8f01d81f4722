# SPDX-License-Identifier: Apache-2.0
"""Batches of the shapes world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np

from pixelrefer_ros.model import PixelReferConfig
from pixelrefer_ros.training.data import Batch, make_batch
from pixelrefer_ros.training.numbered_batches import NumberedBatches
from pixelrefer_ros.training.object_facts import Facts
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


class WorldBatches(NumberedBatches[Batch, int]):
    """The batches of a stage.

    Args:
        folder, config, seed, scenes, split: see `NumberedBatches`.
        stage: what to show.
        surroundings: share of context and whole-frame pictures through which the vision encoder learns, drawn
            for every batch. All are seen all the time, and objects' own crops always teach; but most patches
            are surroundings, and backward costs twice what forward does.
    """

    STREAM = 3

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
        super().__init__(folder, config, seed=seed, scenes=scenes, split=split)
        self._stage, self._surroundings = stage, surroundings

    def __getitem__(self, number: int) -> Batch:
        """Draws batch ``number``."""
        sights: dict[int, Sight] = {}
        batch = make_batch(self._drawn(number, sights), self._tokenizer, self._config)
        if self._stage.aligned:
            names = cast("list[tuple[tuple[int, int], int]]", batch.names)  # as `turn_of` gave them
            seen = [(sights[scene], number, index) for (scene, index), number in names]
            batch.facts = Facts.of(seen)
        if self._surroundings < 1:
            rng = np.random.default_rng([self._seed, 5, number])
            drawn = rng.random(len(batch.crops) + len(batch.frames)) < self._surroundings
            batch.learns.extend([True] * len(batch.crops) + drawn.tolist())
        return batch

    def examples(self, number: int) -> list[Example]:
        """The examples of a batch."""
        return self._drawn(number, {})

    def _drawn(self, number: int, sights: dict[int, Sight]) -> list[Example]:
        """The same, and what can be seen of their scenes."""
        owned = SEED_RANGES[self._split]
        rng = self._chance(number)
        still = rng.random() < self._stage.stills
        scene = replace(self._stage.scene, frames=1) if still else self._stage.scene
        examples: list[Example] = []
        for scene_seed in map(int, rng.integers(owned.start, owned.stop, size=self._scenes)):
            sights[scene_seed] = Sight(Renderer(cast_scene(scene_seed, scene)))
            examples += scene_examples(
                scene_seed,
                self._stage.questions,
                kinds=self._stage.kinds + self._stage.lessons,
                moments=1 if still else self._stage.moments,
                sight=sights[scene_seed],
            )
        return examples
