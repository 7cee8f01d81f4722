# SPDX-License-Identifier: Apache-2.0
"""Teaches a vision encoder that sees whole frames who is beside whom.

Of all that a frame shows, this takes longest: a patch has to look for the nearest other object on one side,
and tell what it is. Where there are few objects, nearly any other one is it; so frames begin with few.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from pixelrefer_ros.model import PixelReferConfig, PixelReferNetwork
from pixelrefer_ros.training import frames
from pixelrefer_ros.training.frames import FrameBatch, FrameHeads, draw_frames, frame_losses
from pixelrefer_ros.training.language_settings import LanguageSettings
from pixelrefer_ros.training.vision_stage import teach_vision
from pixelrefer_ros.training.world import SEED_RANGES, SceneSettings, scene_seeds

STAGE = "sides"
_FEW = SceneSettings(frames=1, objects=(2, 4))
_MANY = SceneSettings(frames=1, objects=(2, 8))
_FEW_SHARE = 0.6  # of the steps
_AROUND = 1.0  # weight of each column of who is around
_FLAT, _SCHEDULE = 0.6, 2.0  # see `Pace`; rates are low in all that follows, so they do not fall here
_WATCHED = 40  # validation scenes


class SideBatches(Dataset[FrameBatch]):
    """Batches of whole frames by number: the same in any process, on any run."""

    def __init__(self, config: PixelReferConfig, *, seed: int, scenes: int, steps: int) -> None:
        """Of a run of so many steps, the first show few objects."""
        self._config, self._seed, self._scenes, self._steps = config, seed, scenes, steps

    def __getitem__(self, number: int) -> FrameBatch:
        """Draws batch ``number``."""
        owned = SEED_RANGES["train"]
        rng = np.random.default_rng([self._seed, 17, number])
        seeds = [int(seed) for seed in rng.integers(owned.start, owned.stop, size=self._scenes)]
        scene = _FEW if number < _FEW_SHARE * self._steps else _MANY
        return draw_frames(seeds, self._config, rng=rng, scene=scene)


def teach_sides(network: PixelReferNetwork, out: Path, settings: LanguageSettings) -> bool:
    """Runs the stage, see `teach_vision`."""
    rng = np.random.default_rng(settings.seed)
    return teach_vision(
        STAGE,
        network,
        FrameHeads,
        partial(frame_losses, around_weight=_AROUND),
        batches=SideBatches(
            network.config, seed=settings.seed, scenes=settings.frame_scenes, steps=settings.side_steps
        ),
        watched=draw_frames(scene_seeds("val", settings.seed, _WATCHED), network.config, rng=rng)
        if settings.validate_every
        else None,
        out=out,
        settings=settings,
        pace=settings.pace(settings.side_steps, flat=_FLAT, schedule=_SCHEDULE),
        after=frames.STAGE,
    )
