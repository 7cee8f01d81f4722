# SPDX-License-Identifier: Apache-2.0
"""Trains PixelRefer-Lite in the paper's two stages: perception first, then instructions (Sec. 6.1)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from pixelrefer_ros.model import PixelReferNetwork
from pixelrefer_ros.training.checkpoints import (
    Sizes,
    modules_of,
    new_checkpoint,
    new_network,
    parameter_count,
    tokenizer_of,
    trainable_network,
    write_network,
)
from pixelrefer_ros.training.data import INSTRUCTIONS, PERCEPTION, Batch, Stage, WorldBatches, loader
from pixelrefer_ros.training.language_loss import answer_loss
from pixelrefer_ros.training.loop import Loop, Pace, parameter_groups, read_progress
from pixelrefer_ros.training.lora import add_low_rank, merge_low_rank
from pixelrefer_ros.training.validation import KeptBest, WorldValidation

RECIPE = "recipe.json"
TRAINING = "training"
"""Subfolder of the log and the state."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Learning rates at their highest.

    The paper fine-tunes (1e-5 for the language model, more for the object encoder in stage 1; one rate for
    all in stage 2); from random weights everything needs more, in the same order.

    Attributes:
        object_encoder: of PixelRefer's own part.
        vision: of the vision encoder; 0 freezes it.
        language: of the language model; 0 freezes it.
    """

    object_encoder: float
    vision: float
    language: float


FROM_NOTHING = (Rates(1e-3, 1e-3, 1e-3), Rates(5e-4, 5e-4, 5e-4))
"""Of both stages, for random weights."""
FINE_TUNING = (Rates(1e-4, 0.0, 1e-5), Rates(1e-5, 0.0, 1e-5))
"""For a trained checkpoint: the vision encoder stays, the rest moves as slowly as in the paper."""
LOW_RANK = (Rates(1e-4, 0.0, 2e-4), Rates(1e-5, 0.0, 2e-4))
"""With low-rank updates of the language model, which begin at zero and need more."""


@dataclass(frozen=True, slots=True)
class LanguageSettings:
    """One training run.

    Attributes:
        seed: of the weights, the tokenizer's text and the scenes.
        steps: of each stage; 0 leaves the stage out.
        scenes: per step.
        surroundings: share of them that teaches the vision encoder; see `WorldBatches`.
        rates: of each stage.
        weight_decay: of matrices.
        sizes: of a new model.
        start_from: a checkpoint to go on from, instead of random weights.
        lora_rank: 0 trains the language model itself; otherwise low-rank updates of it, merged at the end.
        workers: processes that draw scenes.
        device: "cpu" or "cuda".
        bf16: compute in bfloat16 where that is safe; weights stay float32.
        log_every: steps between lines of the log.
        save_every: steps between saved states.
        validate_every: steps between validations, after which the best weights so far are kept; 0: never.
        minutes: stop each call after so many, to go on later; 0 never does.
    """

    seed: int = 0
    steps: tuple[int, int] = (6000, 14000)
    scenes: int = 4
    surroundings: float = 0.34
    rates: tuple[Rates, Rates] = FROM_NOTHING
    weight_decay: float = 0.05
    sizes: Sizes = field(default_factory=Sizes)
    start_from: Path | None = None
    lora_rank: int = 0
    workers: int = 2
    device: str = "cpu"
    bf16: bool = False
    log_every: int = 20
    save_every: int = 500
    validate_every: int = 500
    minutes: float = 0.0


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
    state = out / TRAINING
    progress = read_progress(state)
    stages = list(zip((PERCEPTION, INSTRUCTIONS), settings.steps, settings.rates, strict=True))
    names = [stage.name for stage, _, _ in stages]
    done = names.index(progress["stage"]) if progress and progress["stage"] in names else 0
    if settings.lora_rank:
        add_low_rank(network.language, settings.lora_rank)
    learner = Learner(network).to(settings.device).train()
    out.mkdir(parents=True, exist_ok=True)
    (out / RECIPE).write_text(json.dumps(_recipe(settings, network), indent=1) + "\n", encoding="utf-8")
    kept: KeptBest | None = None
    for place, (stage, steps, rates) in enumerate(stages):
        if place < done or not steps:
            continue
        loop = _stage_loop(learner, rates, stage, state, settings, steps)
        loop.resume()
        batches = WorldBatches(
            source,
            network.config,
            stage,
            seed=settings.seed + place,
            scenes=settings.scenes,
            surroundings=settings.surroundings,
        )
        kept = _validation(network, source, out, stage, settings)
        with contextlib.suppress(KeyboardInterrupt):  # the state is saved below: the run can go on
            loop.run(
                loader(batches, range(loop.step, steps), workers=settings.workers),
                lambda batch: losses(network, batch, bf16=settings.bf16),
                kept,
            )
        loop.save()
        if not loop.finished:
            # To look at; low-rank updates are merged at the end only.
            if not settings.lora_rank and (kept is None or kept.best is None):
                write_network(network, out, source, dtype=torch.float16)
            return False
    if settings.lora_rank:
        merge_low_rank(network.language)
    if kept is None or kept.best is None:  # otherwise the best weights are there already
        write_network(network, out, source, dtype=torch.float16)
    return True


def losses(network: PixelReferNetwork, batch: Batch, *, bf16: bool) -> Mapping[str, Tensor | float]:
    """The loss of a batch, and the share of its answers that are right, for the log."""
    with torch.autocast(network.device.type, torch.bfloat16, enabled=bf16):
        result = answer_loss(network, batch)
    return {"loss": result.loss, "right": result.right / result.answers}


def rates_of(network: nn.Module, rates: Rates) -> dict[float, list[nn.Module]]:
    """The modules by their learning rate; those with none are frozen.

    Args:
        network: a `Learner`.
        rates: of its parts.
    """
    by_rate: dict[float, list[nn.Module]] = {}
    for name, rate in asdict(rates).items():
        module = getattr(network, name)
        updates = [p for key, p in module.named_parameters() if "lora_" in key]
        module.requires_grad_(rate > 0 and not updates)
        for update in updates:
            update.requires_grad_(rate > 0)
        if rate > 0:
            by_rate.setdefault(rate, []).append(module)
    return by_rate


def _stage_loop(
    learner: Learner, rates: Rates, stage: Stage, state: Path, settings: LanguageSettings, steps: int
) -> Loop:
    groups = parameter_groups(rates_of(learner, rates), weight_decay=settings.weight_decay)
    pace = Pace(steps, settings.log_every, settings.save_every, settings.minutes, settings.validate_every)
    return Loop(stage.name, learner, groups, state, pace)


def _validation(
    network: PixelReferNetwork, source: Path, out: Path, stage: Stage, settings: LanguageSettings
) -> KeptBest | None:
    """None where nothing is kept: low-rank updates are no weights of their own until they are merged."""
    if not settings.validate_every or settings.lora_rank:
        return None
    return KeptBest(
        WorldValidation(stage, tokenizer_of(source)),
        network,
        stage=stage.name,
        state=out / TRAINING,
        write=lambda: write_network(network, out, source, dtype=torch.float16),
    )


def _begin(out: Path, settings: LanguageSettings) -> tuple[Path, PixelReferNetwork]:
    """The folder with config and tokenizer, and the network: loaded, taken up, or new."""
    if settings.start_from is not None:
        return settings.start_from, trainable_network(settings.start_from)
    if read_progress(out / TRAINING) is None:
        new_checkpoint(out, settings.sizes, seed=settings.seed)
    return out, new_network(out, seed=settings.seed)


def _recipe(settings: LanguageSettings, network: PixelReferNetwork) -> dict[str, object]:
    plain = asdict(settings) | {
        "start_from": None if settings.start_from is None else str(settings.start_from)
    }
    for run_only in ("workers", "device", "minutes", "log_every", "save_every", "validate_every"):
        plain.pop(run_only)
    return plain | {"parameters": parameter_count(network), "parts": sorted(modules_of(network))}
