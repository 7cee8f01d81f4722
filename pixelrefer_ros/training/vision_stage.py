# SPDX-License-Identifier: Apache-2.0
"""A stage that teaches the vision encoder through linear readings, which are left out of the checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import VideoLlama3VisionModel

from pixelrefer_ros.model import PixelReferNetwork
from pixelrefer_ros.runtime.whole_files import write_tensors
from pixelrefer_ros.training.language_settings import LanguageSettings
from pixelrefer_ros.training.loop import Loop, Pace
from pixelrefer_ros.training.optimizers import parameter_groups
from pixelrefer_ros.training.processes import is_first

_HEADS = "{}_heads.safetensors"

Heads = TypeVar("Heads", bound=nn.Module)
Shown = TypeVar("Shown")


class Losses(Protocol[Heads, Shown]):  # type: ignore[misc] # variance: no one converts these
    """What the encoder is taught by, and how much of a batch is right; "loss" has gradients."""

    def __call__(
        self, vision: VideoLlama3VisionModel, heads: Heads, batch: Shown, *, bf16: bool = False
    ) -> dict[str, Tensor | float]:
        """Of one batch."""


@torch.inference_mode()
def scores(
    losses: Losses[Heads, Shown], vision: VideoLlama3VisionModel, heads: Heads, batch: Shown
) -> dict[str, float]:
    """The same as plain numbers, without gradients and in full precision."""
    return {name: float(value) for name, value in losses(vision, heads, batch).items()}


def teach_vision(
    stage: str,
    network: PixelReferNetwork,
    new_heads: Callable[[int], Heads],
    losses: Losses[Heads, Shown],
    *,
    batches: Callable[[range], Iterator[Shown]],
    watched: Shown | None,
    out: Path,
    settings: LanguageSettings,
    pace: Pace,
    after: str = "",
) -> bool:
    """Runs a stage, or goes on with it where the folder holds its state.

    Args:
        stage: its name.
        network: on its device; its vision encoder is taught.
        new_heads: the readings of an encoder so many wide.
        losses: of a batch.
        batches: of the steps that are left, one for each.
        watched: a batch of validation scenes; None where nothing is watched.
        out: folder of the log and the state.
        settings: of the whole run.
        pace: of the stage.
        after: the stage whose readings it goes on with, where that has been run.

    Returns:
        Whether it is finished; False when the minutes ended first.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        heads = new_heads(network.config.vision.hidden_size)
    if after and (learned := out / _HEADS.format(after)).exists():
        heads.load_state_dict(load_file(learned))
    heads.to(settings.device)
    learner = nn.ModuleDict({"vision": network.vision, "heads": heads})
    groups = parameter_groups(
        {settings.attribute_rate: [learner]},
        weight_decay=settings.weight_decay,
        hidden=[network.vision.encoder],
    )
    loop = Loop(stage, learner, groups, out, pace)
    loop.resume()
    with contextlib.suppress(KeyboardInterrupt):  # the state is saved below: the run can go on
        loop.run(
            batches(range(loop.step, pace.steps)),
            lambda batch: losses(network.vision, heads, batch, bf16=settings.bf16),
            None if watched is None else lambda _: scores(losses, network.vision, heads, watched),
        )
    loop.save()
    if loop.finished and is_first():
        write_tensors(out / _HEADS.format(stage), heads.state_dict())
    return loop.finished
