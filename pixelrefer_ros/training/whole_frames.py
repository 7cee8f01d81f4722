# SPDX-License-Identifier: Apache-2.0
"""Whole frames that are shown many times: drawn once, and mirrored with all that is true of them.

Drawing a frame costs more than a look at it, and a small encoder soon knows the same few by heart. Mirrored
across, down or both it is one of four; only what is said of it has to turn with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pixelrefer_ros.model import global_image
from pixelrefer_ros.training.attributes import CELLS, AttributeBatch, cells_of
from pixelrefer_ros.training.frame_losses import FrameBatch
from pixelrefer_ros.training.frames import SIDE, own_patches, patch_names
from pixelrefer_ros.training.led_attention import LED_SIDES, UNKNOWN
from pixelrefer_ros.training.object_facts import OWN, SIDES, Facts
from pixelrefer_ros.training.world import (
    NOTHING,
    SEED_RANGES,
    SHAPES,
    TURNS,
    Renderer,
    SceneSettings,
    Sight,
    cast_scene,
    who_is,
)
from pixelrefer_ros.types import RgbImage

SCENE = SceneSettings(frames=1, objects=(2, 8))
_LYING = ("crescent", "arrow")
"""Silhouettes whose axis of symmetry lies at angle 0; the others' stands."""
_X, _Y, _ANGLE = 0, 1, 4  # columns of `Facts.measured`


@dataclass(frozen=True, eq=False, slots=True)
class WholeFrame:
    """A frame and the V objects in it that can be told.

    Attributes:
        image: (336, 336, 3) uint8.
        outline: (24, 24, 7, 7) bool, which cells of each patch show any object.
        own: (V, 24, 24) bool, the patches that show each.
        facts: of them.
        beside: (V, sides) int64, see `LedAttention`.
    """

    image: RgbImage
    outline: NDArray[np.bool_]
    own: NDArray[np.bool_]
    facts: Facts
    beside: NDArray[np.int64]

    def mirrored(self, *, across: bool = False, down: bool = False) -> WholeFrame:
        """Left and right swapped, above and below swapped, both, or neither."""
        rows, columns = (slice(None, None, -1 if turned else 1) for turned in (down, across))
        return WholeFrame(
            np.ascontiguousarray(self.image[rows, columns]),
            self.outline[rows, columns, rows, columns],
            self.own[:, rows, columns],
            _mirrored(self.facts, across=across, down=down),
            self.beside[:, _mirrored_sides(across=across, down=down)],
        )


class WholeFrames(Dataset[WholeFrame]):
    """Frames by number: the same in any process, on any run."""

    def __init__(self, *, seed: int) -> None:
        self._seed = seed

    def __getitem__(self, number: int) -> WholeFrame:
        """Draws frame ``number``."""
        owned = SEED_RANGES["train"]
        rng = np.random.default_rng([self._seed, 17, number])
        while True:  # in some scenes no object can be told
            frame = draw_frame(Sight(Renderer(cast_scene(int(rng.integers(owned.start, owned.stop)), SCENE))))
            if frame is not None:
                return frame


def draw_frame(sight: Sight) -> WholeFrame | None:
    """A scene's first frame; None if no object can be told."""
    masks = sight.renderer.layers(0).visible
    told = [number for number in range(len(masks)) if sight.recognizable(number, 0)]
    if not told:
        return None
    cells = cells_of(np.logical_or.reduce(masks), SIDE, SIDE)
    return WholeFrame(
        global_image(sight.renderer.rgb(0)),
        cells.reshape(SIDE, SIDE, CELLS, CELLS) > 0,
        np.stack([own_patches(masks[number]) for number in told]),
        Facts.of([(sight, number, 0) for number in told]),
        np.array([_beside(sight, number, told) for number in told]),
    )


def _beside(sight: Sight, number: int, told: list[int]) -> list[int]:
    """Who is on each of `LED_SIDES` of an object, as places among those that are told."""
    found = [who_is(sight, number, 0, side) for side in LED_SIDES]
    own = told.index(number)
    return [own if who == NOTHING else told.index(who) if who in told else UNKNOWN for who in found]


def batch_of(
    frames: Sequence[WholeFrame], crops: AttributeBatch | None, rng: np.random.Generator
) -> FrameBatch:
    """What a step is shown; the only chance is which of the patches without an object are asked for it."""
    outlines = np.stack([frame.outline for frame in frames])
    return FrameBatch(
        images=[frame.image for frame in frames],
        outlines=torch.from_numpy(outlines.reshape(-1, CELLS**2).astype(np.float32)),
        picture_of=[picture for picture, frame in enumerate(frames) for _ in frame.own],
        own=[torch.from_numpy(own.copy()).flatten() for frame in frames for own in frame.own],
        whole=torch.ones(sum(len(frame.own) for frame in frames), dtype=torch.bool),
        facts=Facts.joined([frame.facts for frame in frames]),
        crops=crops if crops is not None and crops.images else None,
        patches=torch.cat([_patches(frame, rng) for frame in frames]),
        beside=_joined(frames),
    )


def _joined(frames: Sequence[WholeFrame]) -> Tensor:
    """(V, sides) int64 of the objects of all frames."""
    parts, first = [], 0
    for frame in frames:
        parts.append(np.where(frame.beside == UNKNOWN, UNKNOWN, frame.beside + first))
        first += len(frame.own)
    return torch.from_numpy(np.concatenate(parts))


def _patches(frame: WholeFrame, rng: np.random.Generator) -> Tensor:
    its = frame.facts.named[:, :OWN].tolist()
    empty = np.logical_not(frame.outline.any(axis=(2, 3)))
    return patch_names(empty, list(zip(frame.own, its, strict=True)), rng)


def _mirrored(facts: Facts, *, across: bool, down: bool) -> Facts:
    named, measured = facts.named, facts.measured.clone()
    turns = torch.tensor([TURNS[shape] for shape in SHAPES])[named[:, 0]]
    lying = torch.tensor([shape in _LYING for shape in SHAPES])[named[:, 0]]
    for done, middle, sides, along in (
        (across, _X, ("left", "right"), lying),
        (down, _Y, ("above", "below"), ~lying),
    ):
        if not done:
            continue
        named = named[:, _swapped(*sides)]
        measured[:, middle] = 1 - measured[:, middle]
        # Angles run the other way. A silhouette that is symmetric about the axis of the mirror is the same
        # again; one that is symmetric about the line across it stands on its head: half a turn.
        half = torch.where(along, math.pi * turns, 0.0)
        measured[:, _ANGLE] = half - measured[:, _ANGLE]
    return Facts(named, measured)


def _mirrored_sides(*, across: bool, down: bool) -> list[int]:
    """Where each of `LED_SIDES` is found before the mirror."""
    swapped = {"left": "right", "right": "left"} if across else {}
    swapped |= {"above": "below", "below": "above"} if down else {}
    return [LED_SIDES.index(swapped.get(side, side)) for side in LED_SIDES]


def _swapped(one: str, other: str) -> list[int]:
    """The columns of `Facts.named`, with those of two sides exchanged."""
    renamed = [{one: other, other: one}.get(side, side) for side in SIDES]
    return [*range(OWN), *(OWN + 2 * SIDES.index(side) + word for side in renamed for word in range(2))]
