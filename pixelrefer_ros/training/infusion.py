# SPDX-License-Identifier: Apache-2.0
"""Teaches a new object encoder to find in pictures what the language model has learned to read.

Who is around an object is in the features of its frame (paper, Algorithm 1: global infusion), at its own
patches there, which its tokens first have to find among 576. From answers they did not in a thousand steps.
So in a stage of its own object tokens learn to be the signs of their objects. The vision encoder, which knows
all of it by now, is used as it is, and what it sees is kept for some steps: they cost a fifth of it.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from pixelrefer_ros.model import PixelReferConfig, PixelReferNetwork, crop_object, global_image
from pixelrefer_ros.training.data import Pictures, loader
from pixelrefer_ros.training.language_loss import infused_tokens
from pixelrefer_ros.training.language_settings import LanguageSettings
from pixelrefer_ros.training.loop import Loop, parameter_groups
from pixelrefer_ros.training.precision import mixed_precision
from pixelrefer_ros.training.readings import Readings
from pixelrefer_ros.training.signs import OWN, Facts, Signs
from pixelrefer_ros.training.vision_pass import encode_pictures
from pixelrefer_ros.training.world import (
    SEED_RANGES,
    Renderer,
    SceneSettings,
    Sight,
    cast_scene,
    scene_seeds,
)

STAGE = "infusion"
_SCENE = SceneSettings(frames=1, objects=(3, 8))
_WATCHED = 40  # validation scenes
_FLAT = 0.6
_AGAIN = 8  # steps with the same scenes kept, then new ones join them
_KEPT = 64  # batches of which the features are
_VIEWS = 64  # objects of a step


class InfusionBatches(Dataset["Pictures | None"]):
    """Batches by number, the same in any process, on any run; between them what was seen is learned again."""

    def __init__(self, config: PixelReferConfig, *, seed: int, scenes: int) -> None:
        """Of so many scenes each."""
        self._config, self._seed, self._scenes = config, seed, scenes

    def __getitem__(self, number: int) -> Pictures | None:
        """Draws batch ``number``, if it is one with new scenes."""
        return None if number % _AGAIN else self.draw(number)

    def draw(self, number: int) -> Pictures:
        """New scenes."""
        owned = SEED_RANGES["train"]
        rng = np.random.default_rng([self._seed, 19, number])
        return draw_views([int(s) for s in rng.integers(owned.start, owned.stop, self._scenes)], self._config)


def draw_views(seeds: Sequence[int], config: PixelReferConfig) -> Pictures:
    """Every object that can be recognised in the scenes of these seeds."""
    found = Pictures(frames=[], crops=[], frame_of=[])
    views: list[tuple[Sight, int, int]] = []
    for seed in seeds:
        sight = Sight(Renderer(cast_scene(seed, _SCENE)))
        rgb, masks = sight.renderer.rgb(0), sight.renderer.layers(0).visible
        for number in range(len(masks)):
            if not sight.recognizable(number, 0):
                continue
            found.crops.append(
                crop_object(rgb, masks[number], mask_num=config.mask_num, patch_budget=config.patch_budget)
            )
            found.frame_of.append(len(found.frames))
            found.names.append((seed, number))
            views.append((sight, number, 0))
        found.frames.append(global_image(rgb))
    found.facts = Facts.of(views)
    return found


class Seen:
    """Views whose features are kept, to be learned from again: to encode them costs most of it.

    Args:
        network: whose vision encoder sees, and whose object encoder learns.
        signs: what object tokens are to be.
        bf16: compute the vision encoder in bfloat16.
    """

    def __init__(self, network: PixelReferNetwork, signs: Signs, *, bf16: bool = False) -> None:
        """See the class."""
        self._network, self._signs, self._bf16 = network, signs, bf16
        self._kept: deque[tuple[Pictures, list[Tensor]]] = deque(maxlen=_KEPT)

    def __len__(self) -> int:
        """Batches kept."""
        return len(self._kept)

    def see(self, batch: Pictures) -> None:
        """Encodes a batch; the oldest of too many is forgotten."""
        with torch.no_grad(), mixed_precision(self._network.device, bf16=self._bf16):
            features = encode_pictures(self._network.vision, batch.images)
        self._kept.append((batch, [feature.half() for feature in features]))

    def learn(self, rng: np.random.Generator, count: int) -> dict[str, Tensor | float]:
        """What the object encoder is taught by, of views drawn from all that are kept."""
        chosen = rng.integers(len(self._kept), size=count)
        parts = []
        for number in np.unique(chosen).tolist():
            batch, features = self._kept[number]
            views = rng.integers(len(batch.crops), size=int((chosen == number).sum())).tolist()
            parts.append(self._of(batch, features, views))
        tokens, facts = zip(*parts, strict=True)
        return infusion_losses(self._signs, torch.cat(tokens), Facts.joined(facts))

    def of_all(self) -> dict[str, Tensor | float]:
        """The same of every view that is kept."""
        parts = [self._of(batch, features, range(len(batch.crops))) for batch, features in self._kept]
        tokens, facts = zip(*parts, strict=True)
        return infusion_losses(self._signs, torch.cat(tokens), Facts.joined(facts))

    def _of(self, batch: Pictures, features: list[Tensor], views: Sequence[int]) -> tuple[Tensor, Facts]:
        if batch.facts is None:
            raise ValueError("of these views nothing is known: see `draw_views`")
        count = len(batch.crops)
        needed = {n for view in views for n in (view, count + view, 2 * count + batch.frame_of[view])}
        whole = [feature.float() if n in needed else feature for n, feature in enumerate(features)]
        return infused_tokens(self._network, batch, whole, views), batch.facts[list(views)]


def infusion_losses(signs: Signs, tokens: Tensor, facts: Facts) -> dict[str, Tensor | float]:
    """How far object tokens are from signs, and how much of them is understood.

    Args:
        signs: what they are to be.
        tokens: (V, n, D).
        facts: of the same V objects.

    Returns:
        "loss", see `Signs.unlikeness`; "own", the share of shapes, colours and surfaces that the nearest sign
        names rightly; "around", likewise the words of who is on a side, where somebody is.
    """
    right = signs.read(tokens, facts) == facts.named.to(tokens.device)
    there = facts.somebody.to(tokens.device)
    return {
        "loss": signs.unlikeness(tokens, facts),
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
    seen, watched = (Seen(network, signs, bf16=settings.bf16) for _ in range(2))
    if settings.validate_every:
        watched.see(draw_views(scene_seeds("val", settings.seed, _WATCHED), network.config))
    batches = InfusionBatches(network.config, seed=settings.seed, scenes=settings.infusion_scenes)

    def learn(batch: Pictures | None) -> dict[str, Tensor | float]:
        if batch is None and not seen:  # a run that goes on
            batch = batches.draw(loop.step)
        if batch is not None:
            seen.see(batch)
        return seen.learn(np.random.default_rng([settings.seed, 23, loop.step]), _VIEWS)

    @torch.inference_mode()
    def validate(_: int) -> dict[str, float]:
        return {name: float(value) for name, value in watched.of_all().items()}

    with contextlib.suppress(KeyboardInterrupt):  # the state is saved below: the run can go on
        loop.run(
            loader(batches, range(loop.step, settings.infusion_steps), workers=settings.workers),
            learn,
            validate if settings.validate_every else None,
        )
    loop.save()
    return loop.finished
