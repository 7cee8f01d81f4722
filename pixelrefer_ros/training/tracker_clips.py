# SPDX-License-Identifier: Apache-2.0
"""Clips for training SAM 2: a few frames of each scene, its objects' masks, and how they are pointed at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pixelrefer_ros.training.world import SEED_RANGES, Layers, Renderer, SceneSettings, Split, cast_scene
from pixelrefer_ros.types import Mask, RgbImage

Prompt = Literal["box", "point", "mask"]
PROMPT_SHARES: dict[Prompt, float] = {"box": 0.55, "point": 0.35, "mask": 0.1}
"""How often a batch is pointed at in each way; all objects of a batch are pointed at alike."""
PROMPTED_SHARE, PROMPTED_PX = 0.6, 40
"""Objects of which less is seen in the first frame are not followed."""
CLIP = SceneSettings(frames=40, objects=(1, 5))

_GAPS = (1, 8)  # frames from the prompted one to the next
_STRIDES = (1, 4)  # frames between the later ones: a long strides show hiding in a short clip
_JITTER = 0.08  # of a box's sides: people and detectors draw boxes roughly
_OBJECTS = 3  # of a scene at most


@dataclass(frozen=True, eq=False, slots=True)
class Clips:
    """B clips of T frames with N objects in all, at the model's input size S.

    Attributes:
        pictures: (B, T, 3, S, S) uint8.
        masks: (N, T, S, S) bool, what is visible.
        clip_of: (N,) int64.
        prompt: how the objects are pointed at in the first frame.
        points: (N, P, 2) float32 pixels of the model's input: a box's corners, or one point.
        labels: (N, P) int32: 2 and 3 for corners, 1 for a point, -1 where a mask is given.
        gap: (N,) frames from the first to the second.
    """

    pictures: Tensor
    masks: Tensor
    clip_of: Tensor
    prompt: Prompt
    points: Tensor
    labels: Tensor
    gap: Tensor


class ClipBatches(Dataset[Clips]):
    """Batches by number: batch k is the same in any process, on any run.

    Args:
        image_size: S, px.
        seed: which scenes.
        scenes: B.
        length: T, at least 2.
        split: "train", or "val" to watch the training.
        settings: of the scenes.
    """

    def __init__(
        self,
        image_size: int,
        *,
        seed: int,
        scenes: int,
        length: int,
        split: Split = "train",
        settings: SceneSettings = CLIP,
    ) -> None:
        """See the class."""
        self._size, self._seed, self._scenes = image_size, seed, scenes
        self._length, self._split, self._settings = length, split, settings

    def __getitem__(self, number: int) -> Clips:
        """Draws batch ``number``."""
        rng = np.random.default_rng([self._seed, 4, number])
        prompt: Prompt = list(PROMPT_SHARES)[
            int(rng.choice(len(PROMPT_SHARES), p=list(PROMPT_SHARES.values())))
        ]
        owned = SEED_RANGES[self._split]
        pictures: list[Tensor] = []
        masks: list[NDArray[np.bool_]] = []
        clip_of: list[int] = []
        gaps: list[int] = []
        while len(pictures) < self._scenes:
            renderer = Renderer(cast_scene(int(rng.integers(owned.start, owned.stop)), self._settings))
            indices = self._indices(rng)
            chosen = _pointable(rng, renderer.layers(indices[0]))
            if not chosen:
                continue  # everything is covered where this clip would begin
            pictures.append(torch.stack([model_picture(renderer.rgb(i), self._size) for i in indices]))
            for number_of_object in chosen:
                visible = [renderer.layers(i).visible[number_of_object] for i in indices]
                masks.append(np.stack([model_mask(mask, self._size) for mask in visible]))
                clip_of.append(len(pictures) - 1)
                gaps.append(indices[1] - indices[0])
        points, labels = _pointed(rng, [of_object[0] for of_object in masks], prompt)
        return Clips(
            torch.stack(pictures),
            torch.from_numpy(np.stack(masks)),
            torch.tensor(clip_of),
            prompt,
            torch.from_numpy(points),
            torch.from_numpy(labels),
            torch.tensor(gaps),
        )

    def _indices(self, rng: np.random.Generator) -> list[int]:
        frames = self._settings.frames
        for _ in range(100):
            gap, stride = (
                int(rng.integers(*_GAPS, endpoint=True)),
                int(rng.integers(*_STRIDES, endpoint=True)),
            )
            span = gap + stride * (self._length - 2)
            if span < frames:
                break
        else:
            gap = stride = 1
            span = self._length - 1
        start = int(rng.integers(0, frames - span))
        return [start, *(start + gap + stride * step for step in range(self._length - 1))]


def model_picture(rgb: RgbImage, size: int) -> Tensor:
    """(3, S, S) uint8: scaled as the tracker scales its frames, not yet normalised."""
    picture = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None]
    return F.interpolate(picture, size=(size, size), mode="bilinear", align_corners=False, antialias=True)[0]


def model_mask(mask: Mask, size: int) -> NDArray[np.bool_]:
    """(S, S) bool: pixels of which at least half is covered."""
    covered = cv2.resize(mask.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR_EXACT)
    return np.asarray(covered >= 0.5, np.bool_)


def _pointable(rng: np.random.Generator, layers: Layers) -> list[int]:
    """Some of the objects that are seen well enough to be pointed at, in random order."""
    numbers = [int(number) for number in rng.permutation(len(layers.visible))]
    seen = [
        number
        for number in numbers
        if layers.fraction(number) >= PROMPTED_SHARE
        and np.count_nonzero(layers.visible[number]) >= PROMPTED_PX
    ]
    return seen[:_OBJECTS]


def _pointed(
    rng: np.random.Generator, masks: list[NDArray[np.bool_]], prompt: Prompt
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    points, labels = [], []
    for mask in masks:
        rows, columns = np.nonzero(mask)
        if prompt == "box" and len(rows):
            box = np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]], np.float32)
            sides = box[1] - box[0]
            points.append(np.clip(box + rng.uniform(-_JITTER, _JITTER, (2, 2)) * sides, 0, mask.shape[0]))
            labels.append([2, 3])
        elif prompt == "point" and len(rows):
            inside = int(rng.integers(len(rows)))
            points.append(np.array([[columns[inside], rows[inside]]]))
            labels.append([1])
        else:
            points.append(np.zeros((2 if prompt == "box" else 1, 2)))
            labels.append([-1] * (2 if prompt == "box" else 1))
    return np.stack(points).astype(np.float32), np.array(labels, np.int32)
