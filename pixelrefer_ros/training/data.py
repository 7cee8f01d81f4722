# SPDX-License-Identifier: Apache-2.0
"""From examples to batches: pictures for the vision encoder, prompts with places for object tokens."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pixelrefer_ros.model import (
    ChatTokenizer,
    ObjectCrop,
    PixelReferConfig,
    crop_object,
    global_image,
)
from pixelrefer_ros.training.checkpoints import tokenizer_of
from pixelrefer_ros.training.text_rows import TextRows, text_row
from pixelrefer_ros.training.world import (
    KINDS,
    LESSONS,
    SEED_RANGES,
    Example,
    SceneSettings,
    Split,
    scene_examples,
)
from pixelrefer_ros.types import Mask, RgbImage

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Stage:
    """What a stage of training shows (paper, Sec. 6.1).

    Attributes:
        name: in logs and files.
        kinds: of questions.
        scene: of the scenes.
        questions: per scene.
        moments: frames of a scene that pictures are taken from; see `scene_examples`.
        lessons: kinds of `LESSONS` beside them.
        stills: share of the batches whose scenes are one picture, for half of the cost.
    """

    name: str
    kinds: tuple[str, ...]
    scene: SceneSettings
    questions: int
    moments: int
    lessons: tuple[str, ...] = ()
    stills: float = 0.0


PERCEPTION = Stage(
    "perception",
    (
        "category",
        "color",
        "shape",
        "surface",
        "size",
        "is_attribute",
        "choice",
        "place",
        "is_place",
        "describe_brief",
    ),
    SceneSettings(frames=1, objects=(3, 8)),
    questions=12,
    moments=1,
    lessons=("checked", "chosen"),
)
"""Stage 1: what one object in one picture is, and where."""
INSTRUCTIONS = Stage(
    "instructions",
    tuple(KINDS),
    SceneSettings(),
    questions=20,
    moments=2,
    lessons=tuple(LESSONS),
    stills=0.5,
)
"""Stage 2: every kind of question."""


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """B questions that share F frames and V views (an object in a frame).

    Attributes:
        frames: F whole frames, (336, 336, 3) uint8.
        crops: V objects.
        frame_of: (V,) the frame of each view.
        rows: of prompts and answers.
        views: (P,) the view at each ``<REGION>`` run, in reading order; n tokens each.
        learns: (2 V + F,) which pictures pass gradients to the vision encoder: crops, contexts, frames;
            empty where all do.
    """

    frames: list[RgbImage]
    crops: list[ObjectCrop]
    frame_of: list[int]
    rows: TextRows
    views: list[int]
    learns: list[bool] = field(default_factory=list)


@dataclass(frozen=True, eq=False, slots=True)
class View:
    """An object in a frame.

    Attributes:
        picture: names the frame: equal names are one frame, prepared once.
        rgb: the frame, (H, W, 3) uint8.
        name: names the object among the frame's.
        mask: (H, W) bool, not empty.
        time_s: when; None for a single picture.
    """

    picture: Hashable
    rgb: RgbImage
    name: Hashable
    mask: Mask
    time_s: float | None


@dataclass(frozen=True, eq=False, slots=True)
class Turn:
    """A question, its answer, and for every ``<region>`` its views in time order."""

    question: str
    answer: str
    regions: tuple[tuple[View, ...], ...]


def turn_of(example: Example) -> Turn:
    """An example of the shapes world."""
    return Turn(
        example.question,
        example.answer,
        tuple(
            tuple(
                View((example.scene_seed, index), frame.rgb, number, mask, time_s)
                for frame, index, mask, time_s in zip(
                    example.frames, example.frame_indices, of_region, example.times_s, strict=True
                )
            )
            for number, of_region in zip(example.objects, example.masks, strict=True)
        ),
    )


def make_batch(turns: Sequence[Turn | Example], tokenizer: ChatTokenizer, config: PixelReferConfig) -> Batch:
    """Gathers turns; a frame, and an object in a frame, are prepared once for all questions.

    Args:
        turns: at least one.
        tokenizer: of the model.
        config: of the model.

    Raises:
        BadQuestion: a question cannot be asked, see `chat_pieces`.
    """
    frames: dict[Hashable, int] = {}
    views: dict[Hashable, int] = {}
    crops: list[ObjectCrop] = []
    pictures: list[RgbImage] = []
    frame_of: list[int] = []
    asked_of: list[int] = []
    rows: list[tuple[list[int], int]] = []
    for given in turns:
        turn = turn_of(given) if isinstance(given, Example) else given
        for view in (view for region in turn.regions for view in region):
            if view.picture not in frames:
                frames[view.picture] = len(frames)
                pictures.append(global_image(view.rgb))
            if (view.picture, view.name) not in views:
                views[view.picture, view.name] = len(views)
                frame_of.append(frames[view.picture])
                crop = crop_object(
                    view.rgb, view.mask, mask_num=config.mask_num, patch_budget=config.patch_budget
                )
                crops.append(crop)
            asked_of.append(views[view.picture, view.name])
        rows.append(prompt_row(turn, tokenizer, config))
    return Batch(pictures, crops, frame_of, TextRows.padded(rows), asked_of)


def prompt_row(turn: Turn, tokenizer: ChatTokenizer, config: PixelReferConfig) -> tuple[list[int], int]:
    """The ids of prompt and answer, and where the answer begins.

    Raises:
        BadQuestion: see `chat_pieces`.
    """
    times = [[view.time_s for view in region] for region in turn.regions]
    return text_row(turn.question, turn.answer, times, tokenizer, config)


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
        batch = make_batch(self.examples(number), self._tokenizer, self._config)
        if self._surroundings < 1:
            rng = np.random.default_rng([self._seed, 5, number])
            drawn = rng.random(len(batch.crops) + len(batch.frames)) < self._surroundings
            batch.learns.extend([True] * len(batch.crops) + drawn.tolist())
        return batch

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


def loader(batches: Dataset[Item], numbers: range, *, workers: int) -> DataLoader[Item]:
    """Batches in the order of their numbers, drawn ahead by ``workers`` processes (0: in this one)."""
    # Before the workers are forked: a process that inherits OpenCV's pool of threads waits for it for ever.
    cv2.setNumThreads(1)
    return DataLoader(
        batches,
        batch_size=None,
        sampler=numbers,  # type: ignore[arg-type]
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread,
    )


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
