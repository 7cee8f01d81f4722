# SPDX-License-Identifier: Apache-2.0
"""What a training run of SAM 2 can be told, and its stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pixelrefer_ros.training.world import Occlusion, SceneSettings


@dataclass(frozen=True, slots=True)
class TrackerStage:
    """What one stage shows, and how it teaches.

    Attributes:
        name: in the log and in the state.
        worlds: settings of the scenes, used in turn.
        scenes: per step.
        length: T, frames of a clip; 1: single pictures.
        pictures: of each scene, where clips are single pictures.
        objects: of a clip that are followed, at most.
        gaps: fewest and most frames from the prompted one to the next.
        strides: fewest and most frames between the later ones.
        through_hiding: whether clips of scenes whose first object is hidden go through its hiding.
        learning: share of a clip's frames through which the image encoder learns; all are seen.
        own_presence: probability that memory uses the model's own guess of presence, not the truth.
        scale: of the model's input, over that of the settings: half the side is a quarter of the work.
        rate: learning rate at its highest.
    """

    name: str
    worlds: tuple[SceneSettings, ...]
    scenes: int
    length: int
    pictures: int = 1
    objects: int = 3
    gaps: tuple[int, int] = (1, 8)
    strides: tuple[int, int] = (1, 4)
    through_hiding: bool = False
    learning: float = 1.0
    own_presence: float = 0.0
    scale: float = 1.0
    rate: float = 5e-4


_HIDING: tuple[Occlusion, ...] = ("full", "some", "full", "any")

_SCENES = SceneSettings(frames=40, objects=(1, 5))

STAGES = (
    TrackerStage("sketches", (_SCENES,), scenes=4, length=1, pictures=2, scale=0.5, rate=1e-3),
    TrackerStage("pictures", (_SCENES,), scenes=4, length=1, pictures=2, rate=1e-3),
    TrackerStage(
        "clips",
        (SceneSettings(frames=60, objects=(1, 5)),),
        scenes=3,
        length=5,
        objects=2,
        gaps=(1, 20),
        learning=0.4,
        rate=7e-4,
    ),
    TrackerStage(
        "hiding",
        tuple(SceneSettings(frames=60, objects=(1, 4), occlusion=occlusion) for occlusion in _HIDING),
        scenes=4,
        length=7,
        objects=2,
        gaps=(1, 30),
        through_hiding=True,
        learning=0.3,
        own_presence=0.3,
        rate=4e-4,
    ),
)
"""Segment what is pointed at, at half of the size and at the whole; follow it; find it again."""


@dataclass(frozen=True, slots=True)
class TrackerSettings:
    """One training run.

    Attributes:
        seed: of the weights and the scenes.
        stages: in their order.
        steps: of each stage; 0 leaves the stage out.
        scenes: per step in every stage; None: as many as each stage says.
        weight_decay: of matrices.
        image_size: side of the model's input, px, a multiple of 32.
        width: C, a multiple of 64, at least 128.
        slots: memories of an object, the prompt's included; pointers likewise.
        start_from: a checkpoint to go on from, instead of random weights.
        workers: processes that draw clips.
        device: "cpu" or "cuda".
        bf16: compute in bfloat16 where that is safe; weights stay float32.
        log_every: steps between lines of the log.
        save_every: steps between saved states.
        validate_every: steps between validations, after which the best weights so far are kept; 0: never.
        validated_pictures: scenes whose prompted frame a validation scores.
        validated_clips: scenes that a validation follows, in each kind of clip.
        minutes: stop each call after so many, to go on later; 0 never does.
    """

    seed: int = 0
    stages: tuple[TrackerStage, ...] = STAGES
    steps: tuple[int, ...] = (1500, 4000, 3000, 4000)
    scenes: int | None = None
    weight_decay: float = 0.05
    image_size: int = 256
    width: int = 128
    slots: int = 4
    start_from: Path | None = None
    workers: int = 2
    device: str = "cpu"
    bf16: bool = False
    log_every: int = 20
    save_every: int = 200
    validate_every: int = 500
    validated_pictures: int = 40
    validated_clips: int = 4
    minutes: float = 0.0
