# SPDX-License-Identifier: Apache-2.0
"""Clips for training SAM 2: frames of each scene, its objects' masks, and how each is pointed at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pixelrefer_ros.training.tracker_settings import TrackerStage
from pixelrefer_ros.training.world import SEED_RANGES, Layers, Renderer, Split, cast_scene
from pixelrefer_ros.types import Mask, RgbImage

Prompt = Literal["box", "point", "mask"]
PROMPTS: tuple[Prompt, ...] = ("box", "point", "mask")
PROMPT_SHARES = (0.5, 0.35, 0.15)
"""How often an object of a clip is pointed at in each way; in single pictures by box and by point each."""
PROMPTED_SHARE, PROMPTED_PX = 0.6, 40
"""Objects of which less is seen in the first frame are not followed."""

_JITTER = 0.08  # of a box's sides: people and detectors draw boxes roughly
_MIDDLE = 0.5  # of the points are where people click, in the middle; the others anywhere on the object
_LOOK = 3  # frames: hiding lasts longer, and to draw the masks of all would cost as much as a step
_HIDDEN = 3  # frames at most in which a clip of the hiding stage shows nothing of an object


@dataclass(frozen=True, eq=False, slots=True)
class Clips:
    """B clips of T frames with N objects in all, at the model's input size S.

    Attributes:
        pictures: (B, T, 3, S, S) uint8.
        masks: (N, T, S, S) bool, what is visible.
        clip_of: (N,) int64.
        prompt: (N,) int64, the place in `PROMPTS` of how the object is pointed at in the first frame.
        points: (N, 2, 2) float32 pixels of the model's input: a box's corners, or a point and nothing.
        gap: (N,) frames from the first to the second.
    """

    pictures: Tensor
    masks: Tensor
    clip_of: Tensor
    prompt: Tensor
    points: Tensor
    gap: Tensor


class ClipBatches(Dataset[Clips]):
    """Batches by number: batch k is the same in any process, on any run.

    Args:
        image_size: S, px.
        stage: what to show.
        seed: which scenes.
        split: "train", or "val" to watch the training.
    """

    def __init__(self, image_size: int, stage: TrackerStage, *, seed: int, split: Split = "train") -> None:
        self._size, self._stage, self._seed, self._split = image_size, stage, seed, split

    def __getitem__(self, number: int) -> Clips:
        """Draws batch ``number``."""
        rng = np.random.default_rng([self._seed, 4, number])
        length = 1 if rng.random() < self._stage.single else self._stage.length
        owned = SEED_RANGES[self._split]
        pictures: list[Tensor] = []
        masks: list[NDArray[np.bool_]] = []
        prompts: list[tuple[int, NDArray[np.float32]]] = []
        clip_of: list[int] = []
        gaps: list[int] = []
        scenes = 0
        while scenes < self._stage.scenes:
            world = self._stage.worlds[(number + scenes) % len(self._stage.worlds)]
            renderer = Renderer(cast_scene(int(rng.integers(owned.start, owned.stop)), world))
            drawn = len(pictures)
            for indices in self._draw_indices(rng, renderer, length):
                chosen = _pointable(rng, renderer.layers(indices[0]))
                if self._stage.through_hiding and length > 1:
                    chosen.sort(key=bool)  # the one that is hidden comes first
                chosen = chosen[: self._stage.objects if length > 1 else None]
                if not chosen:
                    continue  # everything is covered where this clip would begin
                for followed in chosen:
                    visible = [renderer.layers(i).visible[followed] for i in indices]
                    mask = np.stack([model_mask(mask, self._size) for mask in visible])
                    for prompt in self._draw_prompts(rng, length):
                        masks.append(mask)
                        prompts.append((prompt, _pointed(rng, mask[0], PROMPTS[prompt])))
                        clip_of.append(len(pictures))
                        gaps.append(indices[1] - indices[0] if length > 1 else 1)
                pictures.append(torch.stack([model_picture(renderer.rgb(i), self._size) for i in indices]))
            scenes += len(pictures) > drawn
        return Clips(
            torch.stack(pictures),
            torch.from_numpy(np.stack(masks)),
            torch.tensor(clip_of),
            torch.tensor([prompt for prompt, _ in prompts]),
            torch.from_numpy(np.stack([points for _, points in prompts])),
            torch.tensor(gaps),
        )

    def _draw_prompts(self, rng: np.random.Generator, length: int) -> tuple[int, ...]:
        """An object's prompts: both kinds for a single picture, which costs one decoding more."""
        if length == 1:
            return PROMPTS.index("box"), PROMPTS.index("point")
        return (int(rng.choice(len(PROMPTS), p=PROMPT_SHARES)),)

    def _draw_indices(self, rng: np.random.Generator, renderer: Renderer, length: int) -> Iterator[list[int]]:
        """The frames of each clip of a scene: single pictures, or one clip."""
        frames = renderer.scene.frames
        if length == 1:
            for index in rng.choice(frames, size=min(self._stage.pictures, frames), replace=False):
                yield [int(index)]
            return
        gone = _gone(renderer) if self._stage.through_hiding else []
        if gone:
            yield _through(rng, gone, frames, length)
            return
        while True:
            gap = int(rng.integers(*self._stage.gaps, endpoint=True))
            stride = int(rng.integers(*self._stage.strides, endpoint=True))
            span = gap + stride * (length - 2)
            if span < frames:
                break
        start = int(rng.integers(0, frames - span))
        yield [start, *(start + gap + stride * step for step in range(length - 1))]


def model_picture(rgb: RgbImage, size: int) -> Tensor:
    """(3, S, S) uint8: scaled as the tracker scales its frames, not yet normalised."""
    picture = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None]
    return F.interpolate(picture, size=(size, size), mode="bilinear", align_corners=False, antialias=True)[0]


def model_mask(mask: Mask, size: int) -> NDArray[np.bool_]:
    """(S, S) bool: pixels of which at least half is covered."""
    covered = cv2.resize(mask.astype(np.uint8) * 255, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(covered >= 128, np.bool_)


def _gone(renderer: Renderer) -> list[int]:
    """The frames in which nothing of the first object is seen, if it is seen before and after."""
    looked = range(
        0, renderer.scene.frames, _LOOK
    )  # drawing every frame's masks would take longer than a step
    gone = [index for index in looked if not renderer.layers(index).visible[0].any()]
    if not gone or gone[0] == looked[0] or gone[-1] == looked[-1]:
        return []
    return list(range(gone[0], gone[-1] + 1))


def _through(rng: np.random.Generator, gone: list[int], frames: int, length: int) -> list[int]:
    """Frames before, within and after a time of hiding, in even strides after the first one."""
    hidden = int(rng.integers(1, min(_HIDDEN, len(gone), length - 2), endpoint=True))
    before = int(rng.integers(0, length - 2 - hidden, endpoint=True))
    stride = max(1, round(len(gone) / hidden))
    first = gone[0] + int(rng.integers(0, stride)) - before * stride
    first = min(max(first, 1), frames - 1)
    later = [min(first + stride * step, frames - 1) for step in range(length - 1)]
    return [int(rng.integers(0, first)), *later]


def _pointable(rng: np.random.Generator, layers: Layers) -> list[int]:
    """The objects that are seen well enough to be pointed at, in random order."""
    return [
        number
        for number in (int(n) for n in rng.permutation(len(layers.visible)))
        if layers.fraction(number) >= PROMPTED_SHARE
        and np.count_nonzero(layers.visible[number]) >= PROMPTED_PX
    ]


def _pointed(rng: np.random.Generator, mask: NDArray[np.bool_], prompt: Prompt) -> NDArray[np.float32]:
    """(2, 2) pixels of the model's input: a rough box, or a point on the object."""
    points = np.zeros((2, 2), np.float32)
    rows, columns = np.nonzero(mask)
    if prompt == "box" and len(rows):
        box = np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]], np.float32)
        jitter = rng.uniform(-_JITTER, _JITTER, (2, 2)) * (box[1] - box[0]) * rng.random()
        points = np.clip(box + jitter, 0, mask.shape[0])
    elif prompt == "point" and len(rows):
        if rng.random() < _MIDDLE:
            inside = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
            row, column = np.unravel_index(int(inside.argmax()), mask.shape)
        else:
            chosen = int(rng.integers(len(rows)))
            row, column = rows[chosen], columns[chosen]
        points[0] = (column, row)
    return points.astype(np.float32)
