# SPDX-License-Identifier: Apache-2.0
"""Teaches a new object encoder to find in pictures what the language model has learned to read.

Who is around an object is in the features of its frame (paper, Algorithm 1: global infusion), at its own
patches there, which its tokens first have to find among 576. In 400 steps of perception they did not.
So in a stage of its own object tokens learn to look there, and to be the signs of their objects; see
`infusion_start` for how it begins. The vision encoder, which knows all of it by now, is used as it is, and
what it sees is kept for some steps.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pixelrefer_ros.model import PixelReferNetwork
from pixelrefer_ros.training.data import loader
from pixelrefer_ros.training.infusion_start import LEAST_LOOK, begin_infusion
from pixelrefer_ros.training.infusion_views import Infused, InfusionBatches, Seen, Views, draw_views
from pixelrefer_ros.training.language_settings import LanguageSettings
from pixelrefer_ros.training.loop import Loop
from pixelrefer_ros.training.object_facts import OWN
from pixelrefer_ros.training.optimizers import parameter_groups
from pixelrefer_ros.training.readings import Readings
from pixelrefer_ros.training.signs import Signs
from pixelrefer_ros.training.world import scene_seeds

STAGE = "infusion"
_WATCHED = 40  # validation scenes
_FLAT = 0.3
_VIEWS = 64  # objects of a step
_BEFORE_ALL = 1 << 32  # their numbers are none of the steps'
_LOOKED = 0.3  # weight of the loss beside the distance to signs


def infusion_losses(signs: Signs, infused: Infused) -> dict[str, Tensor | float]:
    """How far object tokens are from signs, and how much of them is understood.

    Args:
        signs: what they are to be.
        infused: the tokens.

    Returns:
        "loss"; "unlike", see `Signs.unlikeness`; "looked", the mean share of attention on own patches; "own",
        the share of shapes, colours and surfaces that the nearest sign names rightly; "around", likewise the
        words of who is on a side, where somebody is.
    """
    tokens, looked_at, facts = infused
    right = signs.read(tokens, facts) == facts.named.to(tokens.device)
    there = facts.somebody.to(tokens.device)
    loss, unlike = signs.missed(tokens, facts)
    return {
        "loss": loss - _LOOKED * (looked_at + LEAST_LOOK).log().mean(),
        "unlike": unlike,
        "looked": looked_at.detach().mean(),
        "own": float(right[:, :OWN].float().mean()),
        "around": float(right[there].float().mean()) if there.any() else 0.0,
    }


def teach_infusion(network: PixelReferNetwork, out: Path, settings: LanguageSettings) -> bool:
    """Runs the stage, or goes on with it where the folder holds its state.

    Args:
        network: on its device; its object encoder is taught.
        out: folder of the log, the state, and the signs that the language model reads.
        settings: of the whole run.

    Returns:
        Whether it is finished; False when the minutes ended first. Where no language model has learned to
        read signs there is nothing to do.
    """
    readings = Readings.load(network, out)
    if readings is None:
        return True
    signs = readings.frozen().signs
    # The state holds what was learned before, too: a stopped run begins from it.
    learner = nn.ModuleDict(
        {"vision": network.vision, "object_encoder": network.object_encoder, "language": network.language}
    )
    groups = parameter_groups(
        {settings.infusion_rate: [network.object_encoder]},
        weight_decay=settings.weight_decay,
        hidden=[network.object_encoder],
    )
    loop = Loop(STAGE, learner, groups, out, settings.pace(settings.infusion_steps, flat=_FLAT))
    loop.resume()
    seen, watched = (Seen(network, bf16=settings.bf16) for _ in range(2))
    if settings.validate_every:
        watched.see(draw_views(scene_seeds("val", settings.seed, _WATCHED), network.config))
    batches = InfusionBatches(network.config, seed=settings.seed, scenes=settings.infusion_scenes)

    if not loop.step:
        for number in range(settings.infusion_first):
            seen.see(batches.draw(_BEFORE_ALL + number))
        begin_infusion(network.object_encoder, seen, signs, seed=settings.seed)

    def learn(batch: Views | None) -> dict[str, Tensor | float]:
        if batch is None and not seen:  # a run that goes on
            batch = batches.draw(loop.step)
        if batch is not None:
            seen.see(batch)
        rng = np.random.default_rng([settings.seed, 23, loop.step])
        return infusion_losses(signs, seen.some(rng, _VIEWS))

    @torch.inference_mode()
    def validate(_: int) -> dict[str, float]:
        return {name: float(value) for name, value in infusion_losses(signs, watched.every()).items()}

    with contextlib.suppress(KeyboardInterrupt):  # the state is saved below: the run can go on
        loop.run(
            loader(batches, range(loop.step, settings.infusion_steps), workers=settings.workers),
            learn,
            validate if settings.validate_every else None,
        )
    loop.save()
    return loop.finished
