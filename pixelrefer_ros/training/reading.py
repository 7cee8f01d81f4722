# SPDX-License-Identifier: Apache-2.0
"""Teaches a new language model the world's language, from what is true of objects and before it sees any.

The paper starts from Qwen2, which can compare, choose and say yes or no. A language model with random weights
learns that from very many questions, and pictures are most of what a question costs. Here objects are signs
instead: the facts that a perfect object encoder would find, in the language model's own words (`signs`). No
picture is drawn. Beside answers it is taught what its hidden states tell of each object (`side_heads`,
`comparison_heads`): one question asks for one thing, and these for everything at once. Kinds of questions are
asked as often as they are still answered wrongly (`question_bank`).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Qwen2ForCausalLM

from pixelrefer_ros.model import PixelReferNetwork
from pixelrefer_ros.training.asked import Asked, ask
from pixelrefer_ros.training.checkpoints import tokenizer_of
from pixelrefer_ros.training.data import loader
from pixelrefer_ros.training.films import FILMS
from pixelrefer_ros.training.language_loss import AnswerLoss, embedded_loss, place_tokens
from pixelrefer_ros.training.language_settings import LanguageSettings
from pixelrefer_ros.training.loop import Loop
from pixelrefer_ros.training.numbered_batches import NumberedBatches
from pixelrefer_ros.training.optimizers import parameter_groups
from pixelrefer_ros.training.precision import mixed_precision
from pixelrefer_ros.training.processes import is_first
from pixelrefer_ros.training.question_bank import QuestionBank
from pixelrefer_ros.training.readings import Readings
from pixelrefer_ros.training.signs import Signs
from pixelrefer_ros.training.world import (
    GLIMPSES,
    LESSONS,
    OFFERED,
    VIDEO_VIEWS,
    Draft,
    Sight,
    Split,
    scene_drafts,
)

STAGE = "reading"
QUESTIONS = 12
"""Of a scene."""
WATCHED = (24, 12)
"""Validation scenes: pictures and videos."""

_STILL = replace(FILMS[0], frames=1, objects=(3, 8))  # nothing is drawn: masks are measured
_OF_VIDEOS = tuple(kind for kind in OFFERED if OFFERED[kind].views == "video")
_OF_STILLS = tuple(kind for kind in OFFERED if OFFERED[kind].views != "video")
_FEW_VIEWS = (2, 8)  # of every other video: few frames say as much of a motion, and cost less
NEW_EVERY = 3
"""Steps of which one draws new questions."""
_TOKENS = 5200  # of a step
_FLAT = 0.6
_WORDS_LEARN = 0.15  # share of the steps after which embeddings, and so signs, stay as they are
OF_READINGS = 0.15
"""Weight of the readings from then on: as loud as answers for longer, they hold answers back."""


class ReadingBatches(NumberedBatches[Asked, tuple[int, int]]):
    """Every kind of question and lesson, about so many single pictures and videos."""

    STREAM = 11

    def __getitem__(self, number: int) -> Asked:
        """Measures batch ``number``."""
        rng = self._chance(number)
        stills, videos = self._scenes
        drafts: list[tuple[Sight, str, Draft]] = []
        for place in itertools.count():
            if place >= stills + videos and drafts:  # by chance no scene may offer any of the kinds
                break
            filmed = place >= stills
            drafts += scene_drafts(
                self._scene(rng),
                QUESTIONS,
                settings=FILMS[int(rng.integers(len(FILMS)))] if filmed else _STILL,
                kinds=_OF_VIDEOS if filmed else _OF_STILLS,
                video_views=VIDEO_VIEWS if place % 2 else _FEW_VIEWS,
                glimpses=GLIMPSES if filmed else 0.0,
            )
        return ask(drafts, self._tokenizer, self._config)[0]


class NewQuestions(Dataset["Asked | None"]):
    """The batches of a run by its steps: every few steps one, in between none."""

    def __init__(self, batches: ReadingBatches) -> None:
        """Of these."""
        self._batches = batches

    def __getitem__(self, number: int) -> Asked | None:
        """What joins the bank before step ``number``."""
        return None if number % NEW_EVERY else self._batches[number // NEW_EVERY]


def reading_loss(network: PixelReferNetwork, signs: Signs, batch: Asked) -> AnswerLoss:
    """Of the answers, given signs in the places of object tokens."""
    tokens = signs(batch.facts)[batch.views]
    return embedded_loss(network, place_tokens(network, batch.rows, tokens), batch.rows)


def settle_words(language: Qwen2ForCausalLM) -> None:
    """Lets the embeddings of words stay as they are.

    Object tokens speak these words. While they go on moving, by some hundredths of themselves a step, what
    has been learned about tokens has to be learned again: the loss of answers fell from 0.46 to 0.44 in
    200 steps, and once words stayed to 0.33 in as many.
    """
    language.model.embed_tokens.requires_grad_(False)


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


def teach_reading(network: PixelReferNetwork, folder: Path, out: Path, settings: LanguageSettings) -> bool:
    """Runs the stage, or goes on with it where the folder holds its state.

    Args:
        network: on its device; its language model is taught.
        folder: of the checkpoint, for its tokenizer.
        out: folder of the log and the state.
        settings: of the whole run.

    Returns:
        Whether it is finished; False when the minutes ended first.
    """
    readings = Readings.new(network, tokenizer_of(folder), seed=settings.seed)
    taught = nn.ModuleDict(
        {
            "language": network.language,
            "signs": readings.signs,
            "sides": readings.sides,
            "comparisons": readings.comparisons,
        }
    )
    bank = QuestionBank()
    # The state holds the vision encoder too: it has learned to see, and a stopped run begins from the state.
    learner = nn.ModuleDict({"vision": network.vision, "bank": bank, **taught})
    groups = parameter_groups(
        {settings.reading_rate: taught.values()},
        weight_decay=settings.weight_decay,
        hidden=[network.language.model.layers],
    )
    steps = settings.reading_steps
    loop = Loop(STAGE, learner, groups, out, settings.pace(steps, flat=_FLAT))
    loop.resume()

    def batches(scenes: tuple[int, int], split: Split = "train") -> ReadingBatches:
        return ReadingBatches(folder, network.config, seed=settings.shown_by, scenes=scenes, split=split)

    watched = batches(WATCHED, "val")

    def losses(batch: Asked) -> tuple[AnswerLoss, Tensor, float]:
        result = reading_loss(network, readings.signs, batch)
        return result, *readings.loss(result, batch.facts[batch.views], batch.times)

    def learn(new: Asked | None) -> dict[str, Tensor | float]:
        settled = loop.step >= _WORDS_LEARN * steps
        if settled:
            settle_words(network.language)
            readings.signs.requires_grad_(False)
        if new is None and not len(bank):  # a run that goes on
            new = batches(settings.reading_scenes)[loop.step // NEW_EVERY]
        if new is not None:
            bank.add(new)
        rng = np.random.default_rng([settings.shown_by, 29, loop.step])
        batch = bank.draw(rng, _TOKENS).turned(rng)
        with mixed_precision(network.device, bf16=settings.bf16):
            result, off, named = losses(batch)
        bank.answered(batch.kinds, result.mistakes, result.lengths)
        right = result.right / result.answers
        weight = OF_READINGS if settled else 1.0
        return {"loss": result.loss + weight * off, "right": right, "named": named, "off": off.detach()}

    @torch.inference_mode()
    def validate(_: int) -> dict[str, float]:
        batch = watched[0]
        result, off, named = losses(batch)
        return {
            "loss": float(result.loss),
            "right": result.right / result.answers,
            "named": named,
            "off": float(off),
            **share_right(result, batch.kinds),
        }

    with contextlib.suppress(KeyboardInterrupt):  # the state is saved below: the run can go on
        loop.run(
            loader(
                NewQuestions(batches(settings.reading_scenes)),
                range(loop.step, steps),
                workers=settings.workers,
            ),
            learn,
            validate if settings.validate_every else None,
        )
    loop.save()
    if loop.finished and is_first():
        readings.save(out)
    return loop.finished
