# SPDX-License-Identifier: Apache-2.0
"""What a stage of training PixelRefer-Lite shows, and is watched by: scenes, or the user's records."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pixelrefer_ros.model import PixelReferNetwork
from pixelrefer_ros.training import processes
from pixelrefer_ros.training.checkpoints import tokenizer_of
from pixelrefer_ros.training.data import Batch, repeated
from pixelrefer_ros.training.language_settings import TRAINING, LanguageSettings
from pixelrefer_ros.training.record_data import Failures, RecordBatches, held_back
from pixelrefer_ros.training.records import RecordTurn, read_records
from pixelrefer_ros.training.stages import Stage
from pixelrefer_ros.training.validation import BatchValidation, Validation, WorldValidation
from pixelrefer_ros.training.world_data import WorldBatches

_KEPT = 100  # batches with their features at once: 3 MB each of pictures, 10 MB of videos

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, slots=True)
class StageData:
    """Of one stage.

    Attributes:
        batches: of the steps that are left, one for each.
        validation: None where nothing is watched.
    """

    batches: Callable[[range], Iterator[Batch]]
    validation: Validation[PixelReferNetwork] | None


def read_all(settings: LanguageSettings) -> list[list[RecordTurn]]:
    """The questions of every file of records, so that what is wrong with one is told before anything begins.

    Args:
        settings: of the run.

    Returns:
        Per file; empty where the shapes world is shown.

    Raises:
        InputFileError: see `read_records`.
    """
    files = []
    for file in settings.data:
        turns, skipped = read_records(file, settings.media or file.parent, most_broken=settings.most_broken)
        for line in skipped.lines():
            _log.warning("%s: left out %s", file, line)
        files.append(turns)
    return files


def world_data(
    network: PixelReferNetwork, source: Path, stage: Stage, settings: LanguageSettings, *, place: int
) -> StageData:
    """Scenes of the shapes world.

    Args:
        network: that learns.
        source: of its tokenizer.
        stage: what to show.
        settings: of the run.
        place: of the stage, from 0.
    """
    batches = WorldBatches(
        source,
        network.config,
        stage,
        seed=settings.shown_by + place,
        scenes=settings.scenes,
        surroundings=settings.surroundings,
    )

    def shown(left: range) -> Iterator[Batch]:
        return repeated(batches, left, shown=settings.shown, workers=settings.workers, kept=_KEPT)

    return StageData(
        shown, WorldValidation(stage, tokenizer_of(source)) if settings.validate_every > 0 else None
    )


def record_data(
    network: PixelReferNetwork,
    source: Path,
    turns: Sequence[RecordTurn],
    settings: LanguageSettings,
    *,
    place: int,
    out: Path,
) -> StageData:
    """The user's records, of which some are held back.

    Args:
        network: that learns.
        source: of its tokenizer.
        turns: of the stage's file.
        settings: of the run.
        place: of the stage, from 0.
        out: folder of the run.

    Raises:
        InputFileError: too many of those held back cannot be read; the batches raise it, too.
    """
    learned, others = held_back(turns)
    if processes.is_first():
        print(_shown_in_words(len(learned), len(others), settings, place), file=sys.stderr)

    def of(chosen: list[RecordTurn], questions: int) -> tuple[RecordBatches, Failures]:
        batches = RecordBatches(
            chosen,
            source,
            network.config,
            seed=settings.shown_by + place,
            questions=questions,
            limit=int(settings.most_broken * len(turns)),
        )
        return batches, Failures(batches, out / TRAINING)

    batches, failures = of(learned, settings.questions)

    def shown(left: range) -> Iterator[Batch]:
        return map(failures.sifted, repeated(batches, left, shown=1, workers=settings.workers))

    if settings.validate_every <= 0 or not others:
        return StageData(shown, None)
    held, failed = of(others, 1)
    return StageData(shown, BatchValidation([failed.sifted(held[n]) for n in range(len(others))]))


def _shown_in_words(learned: int, others: int, settings: LanguageSettings, place: int) -> str:
    """How much there is, and how often a stage shows it: only the user knows whether that is enough."""
    steps, each = settings.steps[place], settings.questions * settings.processes
    return (
        f"stage {place + 1}: {learned} questions to learn from, {others} held back; {steps} steps of {each} "
        f"show each {steps * each / learned:.2g} times (--steps, --questions)"
    )
