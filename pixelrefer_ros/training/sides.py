# SPDX-License-Identifier: Apache-2.0
"""Teaches a vision encoder that sees whole frames who is beside whom, and how objects are posed.

Of all that a frame shows, who is beside whom takes longest: a patch has to look for the nearest other object
on one side, and tell what it is. Where to look is told (`led_attention`). It takes many looks more than it
takes frames, so most of those that a step shows have been shown before. How large an object is and how it is
turned tells what it does over time. Its crop is scaled and shows neither size nor frame; how it is turned is
seen there, too, and larger.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pixelrefer_ros.model import PixelReferConfig, PixelReferNetwork
from pixelrefer_ros.training import frames
from pixelrefer_ros.training.attributes import AttributeBatches
from pixelrefer_ros.training.data import recalled
from pixelrefer_ros.training.frame_losses import FrameBatch, FrameHeads, frame_losses
from pixelrefer_ros.training.language_settings import LanguageSettings
from pixelrefer_ros.training.vision_stage import teach_vision
from pixelrefer_ros.training.whole_frames import WholeFrames, batch_of

STAGE = "sides"
FRAMES_KEPT, CROPS_KEPT = 8000, 1200
"""Of the frames that have been drawn the newest so many are shown again (0.4 MB each); so many batches of
crops are drawn at most."""
_NEW = 0.4  # of the frames of a step: the same ones again and again are known by heart in the end
_CROPS_EVERY = 2  # steps: what was learned of crops has to stay
_NEW_CROPS = 2  # of so many steps with crops, one shows new ones
_CROPPED = 2  # scenes of a batch of crops
_FLAT = 0.5  # see `Pace`
_AROUND, _POSE = 1.0, 2.0  # weights of each column of who is around, and of size and angle
_LED = 2.0  # weight of where attention is led to


class Shown(NamedTuple):
    """What a step shows.

    Attributes:
        frames: their numbers.
        crops: the number of their batch; None where it shows none.
        rng: what is left to chance.
    """

    frames: list[int]
    crops: int | None
    rng: np.random.Generator


@dataclass(frozen=True, slots=True)
class SideSteps:
    """What each step shows: the same on any run, wherever it goes on.

    Attributes:
        config: of the model.
        seed: of everything.
        scenes: frames per step.
        workers: processes that draw, see `loader`.
        frames_kept: the newest so many are shown again.
        crops_kept: how many are drawn at most.
    """

    config: PixelReferConfig
    seed: int
    scenes: int
    workers: int = 0
    frames_kept: int = FRAMES_KEPT
    crops_kept: int = CROPS_KEPT

    def shown(self, step: int) -> Shown:
        """By number: new frames, and others of the newest that have been shown before."""
        rng = np.random.default_rng([self.seed, 18, step])
        before, known = (self._known(number) for number in (step - 1, step))
        numbers = list(range(before, known))
        if before:
            kept = min(before, self.frames_kept)
            again = rng.choice(kept, self.scenes - len(numbers), replace=False)
            numbers += (before - kept + again).tolist()
        return Shown(numbers, self._crops(step, rng), rng)

    def __call__(self, steps: range) -> Iterator[FrameBatch]:
        """The batches of these steps. What they show again from earlier ones is drawn anew when it is due."""
        plan = [self.shown(step) for step in steps]
        pool = recalled(
            WholeFrames(seed=self.seed), [n for shown in plan for n in shown.frames], workers=self.workers
        )
        cropped = recalled(
            # By another seed: these are not the crops from which the encoder has learned already.
            AttributeBatches(self.config, seed=self.seed + 1, scenes=_CROPPED),
            [shown.crops for shown in plan if shown.crops is not None],
            workers=min(1, self.workers),
        )
        for numbers, crops, rng in plan:
            mirrors = rng.random((len(numbers), 2)) < 0.5
            pictures = [next(pool).mirrored(across=bool(across), down=bool(down)) for across, down in mirrors]
            yield batch_of(pictures, None if crops is None else next(cropped), rng)

    def _known(self, step: int) -> int:
        """How many frames have been shown after a step. The first one has only new ones."""
        return self.scenes + step * max(1, round(_NEW * self.scenes)) if step >= 0 else 0

    def _crops(self, step: int, rng: np.random.Generator) -> int | None:
        turn, between = divmod(step, _CROPS_EVERY)
        if between:
            return None
        number, again = divmod(turn, _NEW_CROPS)
        if again or number >= self.crops_kept:
            return int(rng.integers(min(number + 1, self.crops_kept)))
        return number


def teach_sides(network: PixelReferNetwork, out: Path, settings: LanguageSettings) -> bool:
    """Runs the stage, see `teach_vision`."""
    return teach_vision(
        STAGE,
        network,
        FrameHeads,
        partial(frame_losses, around_weight=_AROUND, pose_weight=_POSE, led_weight=_LED),
        batches=SideSteps(network.config, settings.shown_by, settings.frame_scenes, settings.workers),
        watched=frames.watched_frames(network.config, settings),
        out=out,
        settings=settings,
        pace=settings.pace(settings.side_steps, flat=_FLAT),
        after=frames.STAGE,
    )
