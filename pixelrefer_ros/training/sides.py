# SPDX-License-Identifier: Apache-2.0
"""Teaches a vision encoder that sees whole frames who is beside whom, and how objects are posed.

Of all that a frame shows, the first takes longest: a patch has to look for the nearest other object on one
side, and tell what it is. Where there are few objects, nearly any other one is it; so some frames show few.
How large an object is and how it is turned tells what it does over time. Its crop is scaled and shows neither
size nor frame; nothing else that is learned needs its angle.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from pixelrefer_ros.model import PixelReferConfig, PixelReferNetwork
from pixelrefer_ros.training import frames
from pixelrefer_ros.training.attributes import SHOWN
from pixelrefer_ros.training.frame_losses import FrameBatch, FrameHeads, frame_losses
from pixelrefer_ros.training.frames import draw_frames
from pixelrefer_ros.training.language_settings import LanguageSettings
from pixelrefer_ros.training.loop import Pace
from pixelrefer_ros.training.vision_stage import teach_vision
from pixelrefer_ros.training.world import SEED_RANGES, SceneSettings

SIDES, POSES = "sides", "poses"
_FEW = SceneSettings(frames=1, objects=(2, 4))
_MANY = SceneSettings(frames=1, objects=(2, 8))
_FEW_OF = (2, 5)  # so many of so many batches show few, in the first stage
_AROUND = 1.0  # weight of each column of who is around
_POSE = 2.0  # weight of size and angle, in the second stage


class SideBatches(Dataset[FrameBatch]):
    """Batches of whole frames by number: the same in any process, on any run."""

    def __init__(self, config: PixelReferConfig, *, seed: int, scenes: int, few: bool = False) -> None:
        """With ``few``, some of them show few objects."""
        self._config, self._seed, self._scenes, self._few = config, seed, scenes, few

    def __getitem__(self, number: int) -> FrameBatch:
        """Draws batch ``number``."""
        owned = SEED_RANGES["train"]
        rng = np.random.default_rng([self._seed, 17, number])
        seeds = [int(seed) for seed in rng.integers(owned.start, owned.stop, size=self._scenes)]
        scene = _FEW if self._few and number % _FEW_OF[1] < _FEW_OF[0] else _MANY
        return draw_frames(seeds, self._config, rng=rng, scene=scene)


def teach_sides(network: PixelReferNetwork, out: Path, settings: LanguageSettings) -> bool:
    """Runs the stage of who is beside whom, see `teach_vision`."""
    # The next stage begins high again: rates do not fall to nothing.
    pace = settings.pace(settings.side_steps, flat=0.6, schedule=4 / 3)
    return _teach(SIDES, network, out, settings, pace, seed=settings.seed, few=True, after=frames.STAGE)


def teach_poses(network: PixelReferNetwork, out: Path, settings: LanguageSettings) -> bool:
    """Runs the stage of sizes and angles beside that, see `teach_vision`."""
    pace = settings.pace(settings.pose_steps, flat=0.5)
    return _teach(POSES, network, out, settings, pace, seed=settings.seed + 1, after=SIDES, pose_weight=_POSE)


def _teach(
    stage: str,
    network: PixelReferNetwork,
    out: Path,
    settings: LanguageSettings,
    pace: Pace,
    *,
    seed: int,
    after: str,
    few: bool = False,
    pose_weight: float = 0.0,
) -> bool:
    return teach_vision(
        stage,
        network,
        FrameHeads,
        partial(frame_losses, around_weight=_AROUND, pose_weight=pose_weight),
        batches=SideBatches(network.config, seed=seed, scenes=settings.frame_scenes, few=few),
        watched=frames.watched_frames(network.config, settings),
        out=out,
        settings=settings,
        pace=pace,
        after=after,
        shown=SHOWN,
    )
