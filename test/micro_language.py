# SPDX-License-Identifier: Apache-2.0
"""The smallest PixelRefer-Lite that can be trained, and batches for it: a plugin of test files."""

from __future__ import annotations

import pytest
import torch

from pixelrefer_ros.training.checkpoints import Sizes, new_checkpoint, new_network, write_network
from pixelrefer_ros.training.stages import Stage
from pixelrefer_ros.training.world import KINDS, SceneSettings
from pixelrefer_ros.training.world_data import WorldBatches

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


@pytest.fixture(scope="module")
def micro_folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("micro")
    new_checkpoint(made, MICRO, seed=0)
    write_network(new_network(made, seed=0), made, made, dtype=torch.float32)
    return made


@pytest.fixture(scope="module")
def micro_batches(micro_folder):
    return WorldBatches(micro_folder, new_network(micro_folder, seed=0).config, STAGE, seed=1, scenes=2)
