# SPDX-License-Identifier: Apache-2.0
"""Watching a training run: scores on scenes that training never shows, and the best weights kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

from pixelrefer_ros.errors import CheckpointError
from pixelrefer_ros.model import ChatTokenizer, PixelReferLite, PixelReferNetwork, TimedTokens
from pixelrefer_ros.training.data import Batch, make_batch
from pixelrefer_ros.training.language_loss import answer_loss, view_tokens
from pixelrefer_ros.training.scoring import AnswerScores
from pixelrefer_ros.training.scoring.answers import MAX_TOKENS
from pixelrefer_ros.training.stages import Stage
from pixelrefer_ros.training.world import scene_examples, scene_seeds

BEST = "best.json"
SCORE = "score"
"""The entry of a validation that decides which weights are best: higher is better."""


Network = TypeVar("Network")
Measured = TypeVar("Measured", contravariant=True)


class Validation(Protocol[Measured]):
    """Measures a network; nothing of it changes."""

    def __call__(self, network: Measured, /) -> dict[str, float]:
        """Named values, `SCORE` among them."""


class WorldValidation:
    """Greedy answers to a fixed set of questions about validation scenes, judged by the world's own facts.

    Args:
        stage: whose questions and scenes.
        tokenizer: of the model.
        seed: which scenes of the validation split.
        scenes: how many.
        questions: per scene.
    """

    def __init__(
        self, stage: Stage, tokenizer: ChatTokenizer, *, seed: int = 0, scenes: int = 16, questions: int = 6
    ) -> None:
        self._tokenizer = tokenizer
        self._examples = [
            list(
                scene_examples(
                    scene_seed, questions, settings=stage.scene, kinds=stage.kinds, moments=stage.moments
                )
            )
            for scene_seed in scene_seeds("val", seed, scenes)
        ]

    @torch.inference_mode()
    def __call__(self, network: PixelReferNetwork) -> dict[str, float]:
        """Exact scores by row, the loss, and as `SCORE` the share of all answers that are right."""
        model = PixelReferLite("training", "", network, self._tokenizer)
        scores = AnswerScores()
        batches: list[Batch] = []
        for examples in filter(None, self._examples):
            batch = make_batch(examples, self._tokenizer, network.config)
            batches.append(batch)
            tokens = view_tokens(network, batch)
            views = iter(batch.views)
            for example in examples:
                regions = [
                    [TimedTokens(tokens[next(views)], time) for time in example.times_s]
                    for _ in example.masks
                ]
                answer = model.generate(example.question, regions, max_new_tokens=MAX_TOKENS)
                scores.add(example, "".join(piece.text for piece in answer))
        count = sum(row.count for row in scores.rows.values())
        right = sum(row.correct for row in scores.rows.values())
        rows = {name: scores.rows[name].exact for name in sorted(scores.rows)}
        return {SCORE: right / max(count, 1), "loss": _loss(network, batches)["loss"], **rows}


class BatchValidation:
    """Loss, and answers of which every token is the likeliest, on fixed batches of records held back.

    Args:
        batches: prepared.
    """

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches

    @torch.inference_mode()
    def __call__(self, network: PixelReferNetwork) -> dict[str, float]:
        """The loss decides: `SCORE` is its negative."""
        values = _loss(network, self._batches)
        return {SCORE: -values["loss"], **values}


class KeptBest(Generic[Network]):
    """Calls a validation, and writes the weights whenever they are the best of this stage so far.

    Args:
        validation: what to measure.
        network: in training.
        stage: its name; another stage's scores do not compare.
        state: folder of the log; the best score lies there.
        write: writes the weights.
    """

    def __init__(
        self,
        validation: Validation[Network],
        network: Network,
        *,
        stage: str,
        state: Path,
        write: Callable[[], None],
    ) -> None:
        self._validation, self._network, self._write = validation, network, write
        self._stage, self._path = stage, state / BEST

    @property
    def best(self) -> float | None:
        """The best score of this stage; None before the first."""
        if not self._path.is_file():
            return None
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            return float(kept[SCORE]) if kept["stage"] == self._stage else None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self._path} cannot be read ({error!r}): remove it") from error

    def __call__(self, step: int) -> Mapping[str, float]:
        """Measures; of equals the newer is kept."""
        values = self._validation(self._network)
        best = self.best
        if best is None or values[SCORE] >= best:
            self._write()
            kept: dict[str, Any] = {"stage": self._stage, "step": step}
            kept |= {name: round(value, 5) for name, value in values.items()}
            self._path.write_text(json.dumps(kept) + "\n", encoding="utf-8")
        return values


def _loss(network: PixelReferNetwork, batches: Sequence[Batch]) -> dict[str, float]:
    found = list(_losses(network, batches))
    tokens = sum(count for _, _, _, count in found)
    answers = sum(count for _, _, count, _ in found)
    return {
        "loss": sum(loss * count for loss, _, _, count in found) / max(tokens, 1),
        "right": sum(right for _, right, _, _ in found) / max(answers, 1),
    }


def _losses(network: PixelReferNetwork, batches: Sequence[Batch]) -> Iterator[tuple[float, int, int, int]]:
    for batch in batches:
        result = answer_loss(network, batch)
        yield float(result.loss), result.right, result.answers, result.tokens
