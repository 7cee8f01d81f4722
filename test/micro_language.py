# SPDX-License-Identifier: Apache-2.0
"""The smallest PixelRefer-Lite that can be trained, and the smallest stage."""

from __future__ import annotations

from pixelrefer_ros.training.checkpoints import Sizes
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
STAGE = Stage("micro", tuple(KINDS), SCENE, questions=4, moments=1)
