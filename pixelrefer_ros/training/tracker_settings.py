# SPDX-License-Identifier: Apache-2.0
"""What a training run of SAM 2 can be told, and its stages."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pixelrefer_ros.training.run_settings import RunSettings
from pixelrefer_ros.training.world import Occlusion, SceneSettings


@dataclass(frozen=True, slots=True)
class TrackerStage:
    """What one stage shows, and how it teaches.

    Attributes:
        name: in the log and in the state.
        worlds: settings of the scenes, used in turn.
        scenes: per step.
        length: T, frames of a clip; 1: single pictures.
        single: share of the steps that show single pictures all the same, at a fraction of a clip's cost.
        pictures: of each scene, where single ones are shown.
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
    single: float = 0.0
    pictures: int = 2
    objects: int = 3
    gaps: tuple[int, int] = (1, 8)
    strides: tuple[int, int] = (1, 4)
    through_hiding: bool = False
    learning: float = 1.0
    own_presence: float = 0.0
    scale: float = 1.0
    rate: float = 5e-4


_SIZES = ((320, 240), None, (424, 240))  # small frames are drawn much faster, and all end at the model's size
_OCCLUSIONS: tuple[Occlusion, ...] = ("full", "some", "full", "any")
_SCENES = tuple(SceneSettings(frames=40, size=size, objects=(1, 5)) for size in _SIZES)
_CLIPS = tuple(SceneSettings(frames=60, size=size, objects=(1, 5)) for size in _SIZES)
_HIDING = tuple(
    SceneSettings(frames=60, size=size, objects=(1, 4), occlusion=occlusion)
    for size in _SIZES
    for occlusion in _OCCLUSIONS
)

STAGES = (
    TrackerStage("sketches", _SCENES, scenes=3, length=1, pictures=3, scale=0.4, rate=1e-3),
    TrackerStage(
        "clips",
        _CLIPS,
        scenes=4,
        length=5,
        single=0.25,
        objects=2,
        gaps=(1, 20),
        learning=0.5,
        scale=0.4,
        rate=7e-4,
    ),
    TrackerStage(
        "hiding",
        _HIDING,
        scenes=4,
        length=7,
        single=0.25,
        objects=2,
        gaps=(1, 30),
        through_hiding=True,
        learning=0.4,
        own_presence=0.3,
        scale=0.4,
        rate=5e-4,
    ),
    TrackerStage("pictures", _SCENES, scenes=4, length=1, scale=0.8, rate=5e-4),
    TrackerStage(
        "films",
        _HIDING,
        scenes=3,
        length=7,
        single=0.5,
        objects=2,
        gaps=(1, 30),
        through_hiding=True,
        learning=0.4,
        own_presence=0.5,
        rate=4e-4,
    ),
)
"""Small at first, where a step costs a sixth: segment what is pointed at, follow it, find it again. Then
larger: objects of the shapes world are small, and resolution bounds J. At 128 px the decoder has 32 x 32
cells; the truth itself, averaged over these and enlarged, has a J of 0.73, over 64 x 64 cells of 0.90."""


_FURTHER_RATE = 1e-5  # a fiftieth of a new model's: SAM 2 was tuned further with 5e-6 (its appendix)
FURTHER_STAGES = tuple(replace(stage, scale=1.0, rate=_FURTHER_RATE) for stage in STAGES)
"""Of a checkpoint that is trained further: at the size of its own input, and so slowly that what it knows is
not lost."""
FURTHER_STEPS = (0, 0, 0, 300, 700)
"""Of these: to segment and to follow are known already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerSettings(RunSettings):
    """One training run.

    Attributes:
        stages: in their order.
        steps: of each stage; 0 leaves the stage out.
        scenes: per step in every stage; None: as many as each stage says.
        image_size: side of the model's input, px, a multiple of 32.
        width: C, a multiple of 64, at least 128.
        slots: memories of an object, the prompt's included; pointers likewise.
        validated_pictures: scenes whose prompted frame a validation scores.
        validated_clips: scenes that a validation follows, in each kind of clip.
    """

    stages: tuple[TrackerStage, ...] = STAGES
    steps: tuple[int, ...] = (1000, 1500, 1500, 1500, 1200)
    scenes: int | None = None
    image_size: int = 320
    width: int = 128
    slots: int = 4
    save_every: int = 200
    validated_pictures: int = 40
    validated_clips: int = 4
