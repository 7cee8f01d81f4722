# SPDX-License-Identifier: Apache-2.0
"""Teaches a new language model the world's language, from what is true of objects and before it sees any.

The paper starts from Qwen2, which can compare, choose and say yes or no. A language model with random weights
learns that from very many questions, and pictures are most of what a question costs. Here objects are signs
instead: the facts that a perfect object encoder would find, embedded and summed. No picture is drawn; the
embeddings are left out of the checkpoint.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from pixelrefer_ros.model import ChatTokenizer, PixelReferConfig, PixelReferNetwork
from pixelrefer_ros.training.checkpoints import tokenizer_of
from pixelrefer_ros.training.curriculum import READING, REHEARSAL, Course
from pixelrefer_ros.training.data import loader
from pixelrefer_ros.training.language_loss import AnswerLoss, embedded_loss, place_tokens
from pixelrefer_ros.training.language_settings import LanguageSettings
from pixelrefer_ros.training.loop import Loop, parameter_groups
from pixelrefer_ros.training.precision import mixed_precision
from pixelrefer_ros.training.readings import Readings
from pixelrefer_ros.training.signs import Facts, Signs
from pixelrefer_ros.training.text_rows import TextRow, TextRows, text_row
from pixelrefer_ros.training.world import (
    LESSONS,
    OFFERED,
    SEED_RANGES,
    Sight,
    Split,
    scene_drafts,
)

QUESTIONS = 14
"""Of a scene."""
WATCHED = 32
"""Validation scenes."""


@dataclass(frozen=True, eq=False, slots=True)
class ReadingBatch:
    """B questions about V views, an object in a frame each.

    Attributes:
        rows: of prompts and answers.
        views: (P,) the view at each ``<REGION>`` run, in reading order.
        facts: of the V views.
        times: (P,) float32, s since the first view of the same object in the question.
        kinds: (B,) of the questions.
    """

    rows: TextRows
    views: list[int]
    facts: Facts
    times: Tensor
    kinds: list[str]


class ReadingBatches(Dataset[ReadingBatch]):
    """Batches by number: the same in any process, on any run.

    Of a run of so many ``steps``, each in its part of the course; with no steps all are of the last part.
    """

    def __init__(
        self,
        folder: Path,
        config: PixelReferConfig,
        *,
        seed: int,
        scenes: int,
        split: Split = "train",
        course: Course = READING,
        steps: int = 0,
    ) -> None:
        """See `WorldBatches`."""
        self._folder, self._config, self._course = folder, config, course
        self._seed, self._scenes, self._split, self._steps = seed, scenes, split, steps

    @cached_property
    def _tokenizer(self) -> ChatTokenizer:
        return tokenizer_of(self._folder)

    def __getitem__(self, number: int) -> ReadingBatch:
        """Measures batch ``number``."""
        owned = SEED_RANGES[self._split]
        rng = np.random.default_rng([self._seed, 11, number])
        known: dict[tuple[int, int, int], int] = {}
        seen: list[tuple[Sight, int, int]] = []
        rows: list[TextRow] = []
        views: list[int] = []
        asked: list[str] = []
        since: list[float] = []
        part = self._course.part(number, self._steps)
        for place in itertools.count():
            if place >= self._scenes and rows:  # by chance no scene may offer any of the kinds
                break
            scene_seed = rng.integers(owned.start, owned.stop)
            again = part.rehearsed and (number * self._scenes + place) % REHEARSAL == 0
            kinds = part.rehearsed if again else part.kinds
            for sight, kind, draft in scene_drafts(
                int(scene_seed), QUESTIONS, settings=part.scene, kinds=kinds, video_views=part.views
            ):
                asked.append(kind)
                for region in draft.objects:
                    for index in draft.views:
                        key = (int(scene_seed), region, index)
                        if key not in known:
                            known[key] = len(known)
                            seen.append((sight, region, index))
                        views.append(known[key])
                start, rate = draft.views[0], sight.scene.rate_hz
                times = [(index - start) / rate for index in draft.views]
                since += times * len(draft.objects)
                of_regions = [[None] if len(times) == 1 else times for _ in draft.objects]
                rows.append(
                    text_row(
                        draft.question,
                        draft.answer,
                        of_regions,
                        self._tokenizer,
                        self._config,
                        draft.lesson,
                    )
                )
        facts = Facts.of(seen)
        facts = facts.alone() if part.alone else facts
        return ReadingBatch(TextRows.padded(rows), views, facts, torch.tensor(since), asked)


def reading_loss(network: PixelReferNetwork, signs: Signs, batch: ReadingBatch) -> AnswerLoss:
    """Of the answers, given signs in the places of object tokens."""
    tokens = signs(batch.facts)[batch.views]
    return embedded_loss(network, place_tokens(network, batch.rows.ids, tokens), batch.rows)


def share_right(result: AnswerLoss, kinds: Sequence[str]) -> dict[str, float]:
    """The share of answers that are right in every word, by kind; of lessons, the share of what is said."""
    right = torch.where(
        torch.tensor([kind in LESSONS for kind in kinds]),
        1 - result.mistakes.cpu() / result.lengths.cpu(),
        (result.mistakes.cpu() == 0).float(),
    )
    of_kind: dict[str, list[float]] = {}
    for kind, value in zip(kinds, right.tolist(), strict=True):
        of_kind.setdefault(kind, []).append(value)
    return {kind: sum(of_kind[kind]) / len(of_kind[kind]) for kind in OFFERED if kind in of_kind}


def teach_reading(
    network: PixelReferNetwork,
    folder: Path,
    out: Path,
    settings: LanguageSettings,
    course: Course,
    steps: int,
) -> bool:
    """Runs a course, or goes on with it where the folder holds its state.

    Args:
        network: on its device; its language model is taught.
        folder: of the checkpoint, for its tokenizer.
        out: folder of the log, the state, and the signs of a course before this one.
        settings: of the whole run.
        course: what is taught.
        steps: of it.

    Returns:
        Whether it is finished; False when the minutes ended first.
    """
    readings = Readings.load(network, out) or Readings.new(network, seed=settings.seed)
    signs, changes = readings.signs, readings.changes
    signs.requires_grad_(not course.settled)
    # The state holds the vision encoder too: it has learned to see, and a stopped run begins from the state.
    learner = nn.ModuleDict(
        {"vision": network.vision, "language": network.language, "signs": signs, "changes": changes}
    )
    groups = parameter_groups(
        {course.rate * settings.reading_rate: [network.language, signs, changes]},
        weight_decay=settings.weight_decay,
        hidden=[network.language.model.layers],
    )
    pace = settings.pace(steps, flat=course.flat)
    loop = Loop(course.name, learner, groups, out, pace)
    loop.resume()

    def batches(scenes: int, split: Split = "train", of: int = 0) -> ReadingBatches:
        return ReadingBatches(
            folder, network.config, seed=settings.seed, scenes=scenes, split=split, course=course, steps=of
        )

    watched = batches(WATCHED, "val")

    def learn(batch: ReadingBatch) -> dict[str, Tensor | float]:
        with mixed_precision(network.device, bf16=settings.bf16):
            result = reading_loss(network, signs, batch)
        loss, right = course.answered * result.loss, result.right / result.answers
        if not course.compared:
            return {"loss": loss, "right": right}
        off = readings.loss_of_changes(result.late, batch.facts, batch.views, batch.times)
        return {"loss": loss + course.compared * off, "right": right, "changes": off}

    @torch.inference_mode()
    def validate(_: int) -> dict[str, float]:
        batch = watched[0]
        result = reading_loss(network, signs, batch)
        off = readings.loss_of_changes(result.late, batch.facts, batch.views, batch.times)
        return {
            "loss": float(result.loss),
            "right": result.right / result.answers,
            "changes": float(off),
            **share_right(result, batch.kinds),
        }

    with contextlib.suppress(KeyboardInterrupt):  # the state is saved below: the run can go on
        loop.run(
            loader(
                batches(settings.reading_scenes, of=steps),
                range(loop.step, steps),
                workers=settings.workers,
            ),
            learn,
            validate if settings.validate_every else None,
        )
    loop.save()
    if loop.finished:
        readings.save(out)
    return loop.finished
