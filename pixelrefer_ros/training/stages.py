# SPDX-License-Identifier: Apache-2.0
"""What the two stages of training PixelRefer-Lite show (paper, Sec. 6.1)."""

from __future__ import annotations

from dataclasses import dataclass

from pixelrefer_ros.training.world import KINDS, LESSONS, SceneSettings


@dataclass(frozen=True, slots=True)
class Stage:
    """What a stage of training shows (paper, Sec. 6.1).

    Attributes:
        name: in logs and files.
        kinds: of questions.
        scene: of the scenes.
        questions: per scene.
        moments: frames of a scene that pictures are taken from; see `scene_examples`.
        lessons: kinds of `LESSONS` beside them.
        stills: share of the batches whose scenes are one picture, for half of the cost.
        aligned: weight of what is learned beside the answers: hidden states of object tokens to tell who is
            around and how objects differ, see `SideHeads` and `ComparisonHeads`.
    """

    name: str
    kinds: tuple[str, ...]
    scene: SceneSettings
    questions: int
    moments: int
    lessons: tuple[str, ...] = ()
    stills: float = 0.0
    aligned: float = 0.0


PERCEPTION = Stage(
    "perception",
    tuple(kind for kind in KINDS if KINDS[kind].views != "video"),
    SceneSettings(frames=1, objects=(3, 8)),
    questions=12,
    moments=1,
    lessons=tuple(kind for kind in LESSONS if LESSONS[kind].views != "video"),
    aligned=0.15,
)
"""Stage 1: what can be told of objects in one picture."""
INSTRUCTIONS = Stage(
    "instructions",
    tuple(KINDS),
    SceneSettings(),
    questions=20,
    moments=2,
    lessons=tuple(LESSONS),
    stills=0.5,
    aligned=0.15,
)
"""Stage 2: every kind of question."""
