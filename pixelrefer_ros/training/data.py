# SPDX-License-Identifier: Apache-2.0
"""From examples to batches: pictures for the vision encoder, prompts with places for object tokens."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pixelrefer_ros.model import (
    ChatTokenizer,
    ObjectCrop,
    PixelReferConfig,
    crop_object,
    global_image,
)
from pixelrefer_ros.training.object_facts import Facts
from pixelrefer_ros.training.text_rows import TextRow, TextRows, text_row
from pixelrefer_ros.training.world import (
    Example,
)
from pixelrefer_ros.types import Mask, RgbImage

Item = TypeVar("Item")


@dataclass(eq=False, slots=True, kw_only=True)
class Pictures:
    """F frames and V views: an object in a frame.

    Attributes:
        frames: F whole frames, (336, 336, 3) uint8.
        crops: V objects.
        frame_of: (V,) the frame of each view.
        names: (V,) picture and object of each view, as their turns name them.
        facts: of the views, where object tokens are to say what signs say; see `Signs`.
        learns: (2 V + F,) which pictures pass gradients to the vision encoder: crops, contexts, frames;
            empty where all do.
        features: of these pictures, (patches, D_v) float16 each, once they are kept; the pictures are gone
            then. See `keep_features`.
    """

    frames: list[RgbImage]
    crops: list[ObjectCrop]
    frame_of: list[int]
    names: list[tuple[Hashable, Hashable]] = field(default_factory=list)
    facts: Facts | None = None
    learns: list[bool] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)

    @property
    def images(self) -> list[RgbImage]:
        """(2 V + F,): crops, contexts, frames."""
        return [*(crop.image for crop in self.crops), *(crop.context for crop in self.crops), *self.frames]


@dataclass(eq=False, slots=True, kw_only=True)
class Batch(Pictures):
    """B questions about them.

    Attributes:
        rows: of prompts and answers.
        views: (P,) the view at each ``<REGION>`` run, in reading order; n tokens each.
        times: (P,) float32, s since the first view of the same object in the question.
    """

    rows: TextRows
    views: list[int]
    times: Tensor


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
    """A question, its answer, and for every ``<region>`` its views in time order.

    A lesson takes the answer's place, see `text_row`.
    """

    question: str
    answer: str
    regions: tuple[tuple[View, ...], ...]
    lesson: tuple[tuple[str, str], ...] = ()


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
        example.lesson,
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
    views: dict[tuple[Hashable, Hashable], int] = {}
    crops: list[ObjectCrop] = []
    pictures: list[RgbImage] = []
    frame_of: list[int] = []
    asked_of: list[int] = []
    times: list[float] = []
    rows: list[TextRow] = []
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
        for region in turn.regions:
            times += [(view.time_s or 0.0) - (region[0].time_s or 0.0) for view in region]
        rows.append(prompt_row(turn, tokenizer, config))
    return Batch(
        frames=pictures,
        crops=crops,
        frame_of=frame_of,
        names=list(views),
        rows=TextRows.padded(rows),
        views=asked_of,
        times=torch.tensor(times),
    )


def prompt_row(turn: Turn, tokenizer: ChatTokenizer, config: PixelReferConfig) -> TextRow:
    """The tokens of prompt and answer.

    Raises:
        BadQuestion: see `chat_pieces`.
    """
    times = [[view.time_s for view in region] for region in turn.regions]
    return text_row(turn.question, turn.answer, times, tokenizer, config, turn.lesson)


def repeated(
    batches: Dataset[Item], steps: range, *, shown: int, workers: int, kept: int | None = None
) -> Iterator[Item]:
    """One batch a step, each shown so many times at most, since drawing costs as much as learning.

    A run of S steps has S / ``shown`` of them, in the same order again and again; a longer one than
    ``kept * shown`` steps goes on with as many others.

    Args:
        batches: by number.
        steps: those left of the run, to its end.
        shown: at least 1.
        workers: see `loader`.
        kept: batches in memory at most; None keeps all.
    """
    most = kept or max(1, steps.stop)

    def number(step: int) -> int:
        first = step // (most * shown) * most
        distinct = min(most, -(-(steps.stop - first * shown) // shown))
        return first + (step - first * shown) % distinct

    return recalled(batches, [number(step) for step in steps], workers=workers)


def recalled(items: Dataset[Item], numbers: Sequence[int], *, workers: int) -> Iterator[Item]:
    """The items of these numbers, in their order: each is drawn once, when it is first due.

    It is kept in memory until it is due for the last time.

    Args:
        items: by number.
        numbers: any of them any number of times.
        workers: see `loader`.
    """
    left = Counter(numbers)
    drawn = iter(loader(items, list(left), workers=workers))
    kept: dict[int, Item] = {}
    for number in numbers:
        # A copy: each tensor of a worker's item holds a file open.
        item = kept.pop(number) if number in kept else copy.deepcopy(next(drawn))
        left[number] -= 1
        if left[number]:
            kept[number] = item
        yield item


def loader(batches: Dataset[Item], numbers: Sequence[int], *, workers: int) -> DataLoader[Item]:
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
