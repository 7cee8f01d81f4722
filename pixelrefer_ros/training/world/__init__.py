# SPDX-License-Identifier: Apache-2.0
"""The shapes world: short videos drawn from a seed, with exact masks, and questions whose answers are known.

NumPy and OpenCV only. A scene is its seed; everything follows from it, in every process the same.
"""

from pixelrefer_ros.training.world.casting import FRAME_SIZES, Occlusion, SceneSettings, cast_scene
from pixelrefer_ros.training.world.course import GAP, NO_GAP
from pixelrefer_ros.training.world.examples import (
    GLIMPSES,
    VIDEO_VIEWS,
    Example,
    scene_drafts,
    scene_examples,
    scene_texts,
)
from pixelrefer_ros.training.world.facts import Fact, Facts, Score, parse, score
from pixelrefer_ros.training.world.pointing import Prompt, region_of
from pixelrefer_ros.training.world.questions import KINDS, LESSONS, OFFERED, REGION, ROWS, Draft, Row
from pixelrefer_ros.training.world.rendering import EPOCH_NS, Layers, Renderer
from pixelrefer_ros.training.world.scene import BoardSpec, Look, ObjectSpec, Scene
from pixelrefer_ros.training.world.sight import Sight
from pixelrefer_ros.training.world.splits import SEED_RANGES, SEEN, UNSEEN, Split, scene_seeds, split_of
from pixelrefer_ros.training.world.surroundings import NOTHING, neighbors, who_is
from pixelrefer_ros.training.world.vocabulary import (
    BOARD,
    COLORS,
    COMBINATIONS,
    MOTIONS,
    SHAPES,
    SIZES,
    SURFACES,
    TURNS,
    Combination,
)

__all__ = [
    "BOARD",
    "COLORS",
    "COMBINATIONS",
    "EPOCH_NS",
    "FRAME_SIZES",
    "GAP",
    "GLIMPSES",
    "KINDS",
    "LESSONS",
    "MOTIONS",
    "NOTHING",
    "NO_GAP",
    "OFFERED",
    "REGION",
    "ROWS",
    "SEED_RANGES",
    "SEEN",
    "SHAPES",
    "SIZES",
    "SURFACES",
    "TURNS",
    "UNSEEN",
    "VIDEO_VIEWS",
    "BoardSpec",
    "Combination",
    "Draft",
    "Example",
    "Fact",
    "Facts",
    "Layers",
    "Look",
    "ObjectSpec",
    "Occlusion",
    "Prompt",
    "Renderer",
    "Row",
    "Scene",
    "SceneSettings",
    "Score",
    "Sight",
    "Split",
    "cast_scene",
    "neighbors",
    "parse",
    "region_of",
    "scene_drafts",
    "scene_examples",
    "scene_seeds",
    "scene_texts",
    "score",
    "split_of",
    "who_is",
]
