# SPDX-License-Identifier: Apache-2.0
"""Trains a small SAM 2 on prompted clips with memory (SAM 2, Sec. 4 and its appendix on training)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import Sam2VideoModel

from pixelrefer_ros.tracking import load_sam2
from pixelrefer_ros.training import processes
from pixelrefer_ros.training.data import loader
from pixelrefer_ros.training.language_settings import TRAINING
from pixelrefer_ros.training.loop import Loop, read_progress
from pixelrefer_ros.training.optimizers import parameter_groups
from pixelrefer_ros.training.precision import mixed_precision
from pixelrefer_ros.training.run_folder import plain, recipe_for, write_recipe
from pixelrefer_ros.training.tracker_clips import ClipBatches, Clips
from pixelrefer_ros.training.tracker_loss import Follower
from pixelrefer_ros.training.tracker_model import freeze_tables, new_tracker, resized, write_tracker
from pixelrefer_ros.training.tracker_settings import (
    FURTHER_STAGES,
    FURTHER_STEPS,
    STAGES,
    TrackerSettings,
    TrackerStage,
)
from pixelrefer_ros.training.tracker_validation import TrackerValidation
from pixelrefer_ros.training.validation import KeptBest

__all__ = [
    "STAGES",
    "TrackerSettings",
    "TrackerStage",
    "clip_losses",
    "further_settings",
    "new_tracker",
    "train_tracker",
    "write_tracker",
]

_STRIDE = 32  # of the image encoder's coarsest features: its input is a multiple


def train_tracker(out: Path, settings: TrackerSettings) -> bool:
    """Trains a SAM 2, or goes on with the run that the folder holds.

    Writes the model into ``out`` (transformers format, float16), log and state into ``out/training``.

    Returns:
        Whether training is finished; False when the minutes ended first.

    Raises:
        CheckpointError: ``start_from``, or the state in the folder, does not fit.
        ParameterError: the state is of a run with other settings, or the folder holds another model.
    """
    settings = settings.begun()
    recipe = recipe_for(out, _settings(settings), _steps(settings))
    model = _begin(settings).to(settings.device).train()
    recipe |= {"parameters": sum(p.numel() for p in model.parameters())}
    progress = read_progress(state := out / TRAINING)
    if progress is None:  # otherwise the recipe there stays until the state has been taken up
        write_recipe(out, recipe)
    names = [stage.name for stage in settings.stages]
    done = names.index(progress["stage"]) if progress and progress["stage"] in names else 0
    kept: KeptBest[Sam2VideoModel] | None = None
    for place, (stage, steps) in enumerate(zip(settings.stages, settings.steps, strict=True)):
        if place < done or not steps:
            continue
        if settings.scenes is not None:
            stage = replace(stage, scenes=settings.scenes)
        model = resized(model, _STRIDE * round(stage.scale * settings.image_size / _STRIDE))
        freeze_tables(model)
        loop = _stage_loop(model, stage, state, settings, steps)
        loop.resume()
        write_recipe(out, recipe)
        kept = _kept_best(model, out, stage, settings)
        follower = Follower(model, learning=stage.learning, own_presence=stage.own_presence)
        batches = ClipBatches(model.config.image_size, stage, seed=settings.shown_by + place)
        with contextlib.suppress(KeyboardInterrupt):  # the state is saved below: the run can go on
            loop.run(
                loader(batches, range(loop.step, steps), workers=settings.workers),
                partial(clip_losses, follower, bf16=settings.bf16),
                kept,
            )
        loop.save()
        if not loop.finished:
            if kept is None or kept.best is None:  # to look at
                _write(model, out)
            return False
    if kept is None or kept.best is None:  # otherwise the best weights are there already
        _write(model, out)
    return True


def further_settings(start_from: Path) -> dict[str, Any]:
    """What differs where a checkpoint is trained further: for `TrackerSettings`, unless the user says it.

    Args:
        start_from: of the checkpoint.

    Raises:
        CheckpointError: it cannot be loaded.
    """
    own = int(load_sam2(start_from).config.image_size)
    return {"image_size": own, "stages": FURTHER_STAGES, "steps": FURTHER_STEPS}


def _write(model: Sam2VideoModel, out: Path) -> None:
    if processes.is_first():
        write_tracker(model, out)


def clip_losses(follower: Follower, clips: Clips, *, bf16: bool) -> Mapping[str, Tensor | float]:
    """The losses of a batch, for the loop."""
    with mixed_precision(follower.device, bf16=bf16):
        return follower.losses(clips)


def _begin(settings: TrackerSettings) -> Sam2VideoModel:
    if settings.start_from is not None:
        return load_sam2(settings.start_from, image_size=settings.image_size).requires_grad_(True)
    return new_tracker(
        seed=settings.seed, image_size=settings.image_size, width=settings.width, slots=settings.slots
    )


def _stage_loop(
    model: Sam2VideoModel, stage: TrackerStage, state: Path, settings: TrackerSettings, steps: int
) -> Loop:
    new = settings.start_from is None
    blocks = [model.vision_encoder.backbone.blocks, model.mask_decoder.transformer, model.memory_attention]
    groups = parameter_groups(
        {stage.rate: [model]}, weight_decay=settings.weight_decay, hidden=blocks if new else []
    )
    return Loop(stage.name, model, groups, state, settings.pace(steps))


def _kept_best(
    model: Sam2VideoModel, out: Path, stage: TrackerStage, settings: TrackerSettings
) -> KeptBest[Sam2VideoModel] | None:
    if not settings.validate_every:
        return None
    clips = 0 if stage.length == 1 else settings.validated_clips
    return KeptBest(
        TrackerValidation(pictures=settings.validated_pictures, clips=clips),
        model,
        stage=stage.name,
        state=out / TRAINING,
        write=lambda: write_tracker(model, out),
    )


def _settings(settings: TrackerSettings) -> dict[str, Any]:
    """For the recipe: the sizes of a checkpoint that is trained further are its own."""
    return plain(settings, *(() if settings.start_from is None else ("width", "slots")))


def _steps(settings: TrackerSettings) -> dict[str, tuple[str, int]]:
    """Of the stages, in order, see `recipe_for`."""
    stages = zip(settings.stages, settings.steps, strict=True)
    return {stage.name: (f"steps.{place}", steps) for place, (stage, steps) in enumerate(stages)}
