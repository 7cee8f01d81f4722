# SPDX-License-Identifier: Apache-2.0
"""The smallest PixelRefer-Lite that can be trained, and the smallest stage."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from pixelrefer_ros.training.checkpoints import Sizes
from pixelrefer_ros.training.language_settings import LanguageSettings
from pixelrefer_ros.training.loop import PROGRESS, STATE
from pixelrefer_ros.training.stages import Stage
from pixelrefer_ros.training.world import KINDS, SceneSettings

MICRO = Sizes(
    vision_width=32,
    vision_layers=1,
    vision_heads=2,
    language_width=64,
    language_layers=2,
    language_heads=2,
    mask_num=4,
    vocabulary=512,
    patch_budget=48,
)
SCENE = SceneSettings(frames=8, size=(320, 240), objects=(2, 3))
SHORTEST = LanguageSettings(
    attribute_steps=1,
    attribute_scenes=1,
    frame_steps=1,
    frame_scenes=1,
    side_steps=1,
    reading_steps=1,
    reading_scenes=(1, 1),
    infusion_steps=1,
    led_steps=2,
    infusion_scenes=1,
    infusion_batches=2,
    steps=(1, 1),
    scenes=1,
    sizes=MICRO,
    workers=0,
    validate_every=0,
)
"""One step of every stage."""
STAGE = Stage("micro", tuple(KINDS), SCENE, questions=4, moments=1)


def set_progress(folder: Path, stage: str, step: int, steps: int) -> None:
    """Makes the state in a folder that of another moment of its run."""
    progress = json.dumps({"stage": stage, "step": step, "steps": steps})
    save_file(load_file(folder / STATE), folder / STATE, metadata={"progress": progress})
    (folder / PROGRESS).write_text(progress, encoding="utf-8")
