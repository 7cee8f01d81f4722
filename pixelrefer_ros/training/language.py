# SPDX-License-Identifier: Apache-2.0
"""Trains PixelRefer-Lite in the paper's two stages: perception first, then instructions (Sec. 6.1)."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from pixelrefer_ros.model import PixelReferNetwork
from pixelrefer_ros.training import attributes, frames, infusion, processes, reading, sides
from pixelrefer_ros.training.checkpoints import (
    modules_of,
    new_checkpoint,
    new_network,
    parameter_count,
    tokenizer_of,
    trainable_network,
    write_network,
)
from pixelrefer_ros.training.data import Batch, repeated
from pixelrefer_ros.training.language_loss import answer_loss, keep_features
from pixelrefer_ros.training.language_settings import RECIPE, TRAINING, LanguageSettings
from pixelrefer_ros.training.loop import Loop, read_progress
from pixelrefer_ros.training.lora import add_low_rank, merge_low_rank
from pixelrefer_ros.training.optimizers import parameter_groups
from pixelrefer_ros.training.precision import mixed_precision
from pixelrefer_ros.training.rates import FINE_TUNING, FROM_NOTHING, LOW_RANK, Rates, rates_of
from pixelrefer_ros.training.readings import Readings
from pixelrefer_ros.training.record_data import RecordBatches, held_back
from pixelrefer_ros.training.records import RecordTurn, read_records
from pixelrefer_ros.training.rivals import WordRivals
from pixelrefer_ros.training.stages import INSTRUCTIONS, PERCEPTION, Stage
from pixelrefer_ros.training.validation import BatchValidation, KeptBest, Validation, WorldValidation
from pixelrefer_ros.training.world_data import WorldBatches

_log = logging.getLogger(__name__)

__all__ = [
    "FINE_TUNING",
    "FROM_NOTHING",
    "LOW_RANK",
    "RECIPE",
    "TRAINING",
    "LanguageSettings",
    "Learner",
    "Rates",
    "losses",
    "rates_of",
    "train_language",
]


class Learner(nn.Module):
    """The three networks as one module, so that one state holds them."""

    def __init__(self, network: PixelReferNetwork) -> None:
        """Shares the networks."""
        super().__init__()
        self.vision, self.object_encoder = network.vision, network.object_encoder
        self.language = network.language


def train_language(out: Path, settings: LanguageSettings) -> bool:
    """Trains a PixelRefer-Lite, or goes on with the run that the folder holds.

    Writes the finished checkpoint into ``out`` (released layout, float16), log and state into
    ``out/training``.

    Returns:
        Whether training is finished; False when the minutes ended first.

    Raises:
        CheckpointError: ``start_from``, or the state in the folder, does not fit.
        ParameterError: the state is of a run with other settings.
    """
    source, network = _begin(out, settings)
    progress = read_progress(state := out / TRAINING)
    stages = list(zip((PERCEPTION, INSTRUCTIONS), settings.steps, settings.rates, strict=True))
    names = [stage.name for stage, _, _ in stages]
    done = names.index(progress["stage"]) if progress and progress["stage"] in names else 0
    if settings.lora_rank:
        add_low_rank(network.language, settings.lora_rank)
    learner = Learner(network).to(settings.device).train()
    if processes.is_first():
        out.mkdir(parents=True, exist_ok=True)
        (out / RECIPE).write_text(json.dumps(_recipe(settings, network), indent=1) + "\n", encoding="utf-8")
    if settings.start_from is None and not settings.data and not _prepared(network, source, state, settings):
        return False
    readings = Readings.load(network, state)
    if readings is not None:
        readings = readings.frozen()
    rivals = None if settings.data else WordRivals(tokenizer_of(source))
    write = partial(_write, network, out, source)
    kept: KeptBest | None = None
    for place, (stage, steps, rates) in enumerate(stages):
        if place < done or not steps:
            continue
        loop = _stage_loop(learner, rates, stage, state, settings, steps, settled=readings is not None)
        loop.resume()
        data = _data(network, source, out, stage, place, settings)
        kept = _kept_best(network, write, out, stage, settings, data.validation)
        left = range(loop.step, steps)
        with contextlib.suppress(KeyboardInterrupt):  # the state is saved below: the run can go on
            loop.run(
                repeated(data.batches, left, shown=data.shown, workers=settings.workers),
                partial(
                    losses,
                    network,
                    bf16=settings.bf16,
                    readings=readings,
                    rivals=rivals,
                    weight=stage.aligned,
                ),
                kept,
            )
        loop.save()
        if not loop.finished:
            # To look at; low-rank updates are merged at the end only.
            if not settings.lora_rank and (kept is None or kept.best is None):
                write()
            return False
    if settings.lora_rank:
        merge_low_rank(network.language)
    if kept is None or kept.best is None:  # otherwise the best weights are there already
        write()
    return True


def _write(network: PixelReferNetwork, out: Path, source: Path) -> None:
    if processes.is_first():
        write_network(network, out, source, dtype=torch.float16)


def _prepared(network: PixelReferNetwork, source: Path, state: Path, settings: LanguageSettings) -> bool:
    """Lets a new model learn to see, then to read, from where its state is; whether that is finished."""
    stages = {
        attributes.STAGE: (settings.attribute_steps, partial(attributes.teach_attributes, network, state)),
        frames.STAGE: (settings.frame_steps, partial(frames.teach_frames, network, state)),
        sides.STAGE: (settings.side_steps, partial(sides.teach_sides, network, state)),
        reading.STAGE: (settings.reading_steps, partial(reading.teach_reading, network, source, state)),
        infusion.STAGE: (settings.infusion_steps, partial(infusion.teach_infusion, network, source, state)),
    }
    progress = read_progress(state)
    at = progress["stage"] if progress else attributes.STAGE
    left = itertools.dropwhile(lambda name: name != at, stages)
    for steps, teach in map(stages.__getitem__, left):
        if steps and not teach(settings=settings):
            return False
        processes.wait()  # for the readings that the first one writes
    return True


def losses(
    network: PixelReferNetwork,
    batch: Batch,
    *,
    bf16: bool,
    readings: Readings | None = None,
    rivals: WordRivals | None = None,
    weight: float = 1.0,
) -> Mapping[str, Tensor | float]:
    """The loss of a batch, and the share of its answers that are right, for the log.

    With readings, and a batch that says what is true of its objects, how wrongly neighbours and comparisons
    are read is added, by weight.
    """
    with mixed_precision(network.device, bf16=bf16):
        if not any(parameter.requires_grad for parameter in network.vision.parameters()):
            keep_features(network, batch)
        result = answer_loss(network, batch, rivals)
    found: dict[str, Tensor | float] = {"loss": result.loss, "right": result.right / result.answers}
    if readings is not None and batch.facts is not None:
        off, named = readings.loss(result, batch.facts[batch.views], batch.times)
        found["loss"] = result.loss + weight * off
        found |= {"named": named, "off": off.detach()}
    return found


def _stage_loop(
    learner: Learner,
    rates: Rates,
    stage: Stage,
    state: Path,
    settings: LanguageSettings,
    steps: int,
    *,
    settled: bool,
) -> Loop:
    """With ``settled`` words, embeddings stay as they are; see `reading.settle_words`."""
    new = settings.start_from is None
    layers = [learner.vision.encoder, learner.object_encoder, learner.language.model.layers] if new else []
    by_rate = rates_of(learner, rates)
    if settled:
        reading.settle_words(learner.language)
    groups = parameter_groups(by_rate, weight_decay=settings.weight_decay, hidden=layers)
    return Loop(stage.name, learner, groups, state, settings.pace(steps))


@dataclass(frozen=True, eq=False, slots=True)
class _Data:
    batches: Dataset[Batch]
    validation: Validation | None
    shown: int


def _data(
    network: PixelReferNetwork, source: Path, out: Path, stage: Stage, place: int, settings: LanguageSettings
) -> _Data:
    """What a stage shows: scenes, or the user's records, of which some are held back."""
    watched = settings.validate_every > 0
    seed = settings.shown_by + place
    if not settings.data:
        batches = WorldBatches(
            source,
            network.config,
            stage,
            seed=seed,
            scenes=settings.scenes,
            surroundings=settings.surroundings,
        )
        world = WorldValidation(stage, tokenizer_of(source)) if watched else None
        return _Data(batches, world, settings.shown)
    file = settings.data[min(place, len(settings.data) - 1)]
    turns, skipped = read_records(file, settings.media or file.parent, most_broken=settings.most_broken)
    for line in skipped.lines():
        _log.warning("%s: left out %s", file, line)
    shown, others = held_back(turns)
    _log.info("%s: %d questions to learn from, %d held back", file, len(shown), len(others))

    def of(chosen: list[RecordTurn], questions: int) -> RecordBatches:
        return RecordBatches(
            chosen,
            source,
            network.config,
            seed=seed,
            questions=questions,
            log=out / TRAINING,
            limit=int(settings.most_broken * len(turns)),
        )

    held = of(others, 1) if watched and others else None
    validation = BatchValidation([held[n] for n in range(len(others))]) if held else None
    return _Data(of(shown, settings.questions), validation, 1)


def _kept_best(
    network: PixelReferNetwork,
    write: Callable[[], None],
    out: Path,
    stage: Stage,
    settings: LanguageSettings,
    validation: Validation | None,
) -> KeptBest | None:
    """None where nothing is kept: low-rank updates are no weights of their own until they are merged."""
    if validation is None or settings.lora_rank:
        return None
    return KeptBest(
        validation,
        network,
        stage=stage.name,
        state=out / TRAINING,
        write=write,
    )


def _begin(out: Path, settings: LanguageSettings) -> tuple[Path, PixelReferNetwork]:
    """The folder with config and tokenizer, and the network: loaded, taken up, or new."""
    if settings.start_from is not None:
        return settings.start_from, trainable_network(settings.start_from)
    if read_progress(out / TRAINING) is None and processes.is_first():
        new_checkpoint(out, settings.sizes, seed=settings.seed)
    processes.wait()
    return out, new_network(out, seed=settings.seed)


def _recipe(settings: LanguageSettings, network: PixelReferNetwork) -> dict[str, object]:
    plain = asdict(settings) | {
        "start_from": None if settings.start_from is None else str(settings.start_from),
        "media": None if settings.media is None else str(settings.media),
        "data": [str(file) for file in settings.data],
    }
    for run_only in ("workers", "device", "minutes", "log_every", "save_every", "validate_every", "process"):
        plain.pop(run_only)
    return plain | {"parameters": parameter_count(network), "parts": sorted(modules_of(network))}
