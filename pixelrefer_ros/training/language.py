# SPDX-License-Identifier: Apache-2.0
"""Trains PixelRefer-Lite in the paper's two stages: perception first, then instructions (Sec. 6.1)."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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
from pixelrefer_ros.training.data import Batch
from pixelrefer_ros.training.language_loss import answer_loss, keep_features
from pixelrefer_ros.training.language_settings import RECIPE, TRAINING, LanguageSettings
from pixelrefer_ros.training.loop import Loop, read_progress
from pixelrefer_ros.training.lora import add_low_rank, halve_frozen, merge_low_rank
from pixelrefer_ros.training.optimizers import parameter_groups
from pixelrefer_ros.training.precision import mixed_precision
from pixelrefer_ros.training.rates import FINE_TUNING, FROM_NOTHING, LOW_RANK, Rates, rates_of
from pixelrefer_ros.training.readings import Readings
from pixelrefer_ros.training.rivals import WordRivals
from pixelrefer_ros.training.run_folder import plain, recipe_for, write_recipe
from pixelrefer_ros.training.stage_data import read_all, record_data, world_data
from pixelrefer_ros.training.stages import INSTRUCTIONS, PERCEPTION, Stage
from pixelrefer_ros.training.validation import KeptBest, Validation

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


_PREPARING = {
    attributes.STAGE: "attribute_steps",
    frames.STAGE: "frame_steps",
    sides.STAGE: "side_steps",
    reading.STAGE: "reading_steps",
    infusion.STAGE: "infusion_steps",
}
"""The stages before the paper's two, in order, and the settings that hold their steps."""


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
        InputFileError: a file of records cannot be read, or too much of it is broken.
        ParameterError: the state is of a run with other settings, or the folder holds another model.
    """
    settings = settings.begun()
    recipe = recipe_for(out, _settings(settings), _steps(settings))
    records = read_all(settings)
    source, network = _begin(out, settings)
    progress = read_progress(state := out / TRAINING)
    stages = list(zip((PERCEPTION, INSTRUCTIONS), settings.steps, settings.rates, strict=True))
    names = [stage.name for stage, _, _ in stages]
    done = names.index(progress["stage"]) if progress and progress["stage"] in names else 0
    originals: dict[str, Tensor] = {}
    if settings.lora_rank:
        add_low_rank(network.language, settings.lora_rank)
        originals = halve_frozen(network.language) if settings.bf16 else {}
    learner = Learner(network).to(settings.device).train()
    recipe |= {"parameters": parameter_count(network), "parts": sorted(modules_of(network))}
    if progress is None:  # otherwise the recipe there stays until the state has been taken up
        write_recipe(out, recipe)
    if settings.start_from is None and not records:
        prepared = _prepared(network, source, state, settings)
        write_recipe(out, recipe)
        if not prepared:
            return False
    readings = Readings.load(network, state)
    if readings is not None:
        readings = readings.frozen()
    rivals = None if records else WordRivals(tokenizer_of(source))
    write = partial(_write, network, out, source)
    kept: KeptBest | None = None
    for place, (stage, steps, rates) in enumerate(stages):
        if place < done or not steps:
            continue
        loop = _stage_loop(learner, rates, stage, state, settings, steps, settled=readings is not None)
        loop.resume()
        write_recipe(out, recipe)
        if records:
            turns = records[min(place, len(records) - 1)]
            data = record_data(network, source, turns, settings, place=place, out=out)
        else:
            data = world_data(network, source, stage, settings, place=place)
        kept = _kept_best(network, write, out, stage, settings, data.validation)
        left = range(loop.step, steps)
        with contextlib.suppress(KeyboardInterrupt):  # the state is saved below: the run can go on
            loop.run(
                data.batches(left),
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
        merge_low_rank(network.language, originals)
    if kept is None or kept.best is None:  # otherwise the best weights are there already
        write()
    return True


def _write(network: PixelReferNetwork, out: Path, source: Path) -> None:
    if processes.is_first():
        write_network(network, out, source, dtype=torch.float16)


def _prepared(network: PixelReferNetwork, source: Path, state: Path, settings: LanguageSettings) -> bool:
    """Lets a new model learn to see, then to read, from where its state is; whether that is finished."""
    teach = {
        attributes.STAGE: partial(attributes.teach_attributes, network, state),
        frames.STAGE: partial(frames.teach_frames, network, state),
        sides.STAGE: partial(sides.teach_sides, network, state),
        reading.STAGE: partial(reading.teach_reading, network, source, state),
        infusion.STAGE: partial(infusion.teach_infusion, network, source, state),
    }
    progress = read_progress(state)
    at = progress["stage"] if progress else attributes.STAGE
    for stage in itertools.dropwhile(lambda name: name != at, _PREPARING):
        if getattr(settings, _PREPARING[stage]) and not teach[stage](settings=settings):
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


def _kept_best(
    network: PixelReferNetwork,
    write: Callable[[], None],
    out: Path,
    stage: Stage,
    settings: LanguageSettings,
    validation: Validation[PixelReferNetwork] | None,
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


def _settings(settings: LanguageSettings) -> dict[str, Any]:
    """For the recipe: of a checkpoint that is trained further neither sizes nor preparing stages are said."""
    preparing = (name.removesuffix("steps") for name in _PREPARING.values())
    return plain(settings, *(() if settings.start_from is None else ("sizes", *preparing)))


def _steps(settings: LanguageSettings) -> dict[str, tuple[str, int]]:
    """Of the stages of a run, in order, see `recipe_for`."""
    new = settings.start_from is None and not settings.data
    preparing = {stage: (name, getattr(settings, name)) for stage, name in _PREPARING.items() if new}
    paper = zip((PERCEPTION, INSTRUCTIONS), settings.steps, strict=True)
    return preparing | {stage.name: (f"steps.{place}", steps) for place, (stage, steps) in enumerate(paper)}
