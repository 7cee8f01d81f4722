# SPDX-License-Identifier: Apache-2.0
"""From a scene to pixels, and to the exact masks of every object in every frame."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from pixelrefer_ros.training.world.backgrounds import background
from pixelrefer_ros.training.world.scene import Scene
from pixelrefer_ros.training.world.sprites import Patch, Sprite, board_sprite, object_sprite, place
from pixelrefer_ros.types import Frame, Mask, RgbImage

EPOCH_NS = 1_000_000_000
"""The stamp of a scene's first frame, ns: not 0, which messages use for "no stamp"."""

_NOISE_MARGIN = 61
_COVERED = 128  # of 255: a pixel belongs to what covers at least half of it


@dataclass(frozen=True, eq=False, slots=True)
class Layers:
    """Who is where in one frame; N objects, B boards.

    Attributes:
        amodal: (N, H, W) bool, what each object would cover with nothing in front of it.
        visible: (N, H, W) bool, what can be seen of each; no pixel belongs to two.
        boards: (B, H, W) bool.
        full_area: (N,) pixels of the whole object, those outside the frame included.
    """

    amodal: NDArray[np.bool_]
    visible: NDArray[np.bool_]
    boards: NDArray[np.bool_]
    full_area: NDArray[np.int64]

    def fraction(self, number: int) -> float:
        """How much of an object is seen: visible pixels over those of the whole object, in [0, 1]."""
        return float(np.count_nonzero(self.visible[number]) / max(int(self.full_area[number]), 1))


class Renderer:
    """Draws the frames of one scene, in any order; each is the same however often it is asked for."""

    def __init__(self, scene: Scene) -> None:
        """Draws the sprites; background and light wait until a picture is asked for."""
        self.scene = scene
        self._objects = [
            object_sprite(
                spec.combination.shape,
                spec.combination.surface,
                spec.color,
                spec.ink,
                spec.pattern_angle,
                spec.radius * max(1.0, spec.growth),
            )
            for spec in scene.objects
        ]
        self._boards = [board_sprite(b.width, b.height, b.shade, b.seed) for b in scene.boards]
        self._layers: dict[int, Layers] = {}

    def frame(self, index: int) -> Frame:
        """The picture of frame ``index``, stamped on the scene's own clock from `EPOCH_NS`."""
        stamp = EPOCH_NS + round(self.scene.time_s(index) * 1e9)
        return Frame(self.rgb(index), stamp, "camera_optical_frame")

    def rgb(self, index: int) -> RgbImage:
        """The picture of a frame: (H, W, 3) uint8."""
        look = self.scene.look
        picture: np.ndarray = self._background.copy()
        for patch in self._patches(index, painted=True):
            _blend(picture, patch)
        picture = cv2.multiply(picture, self._gain, scale=1 / 128)
        if look.blur_px:
            picture = cv2.GaussianBlur(picture, (0, 0), look.blur_px)
        if look.noise:
            shift = np.random.default_rng([look.seed, index]).integers(0, _NOISE_MARGIN, 2)
            noise = self._noise[
                shift[0] : shift[0] + self.scene.height, shift[1] : shift[1] + self.scene.width
            ]
            picture = cv2.add(picture, noise, dtype=cv2.CV_8U)
        return np.asarray(picture, np.uint8)

    def layers(self, index: int) -> Layers:
        """The masks of a frame; kept, since many questions ask about the same one."""
        if index not in self._layers:
            self._layers[index] = self._separate(list(self._patches(index, painted=False)))
        return self._layers[index]

    def _separate(self, patches: list[Patch]) -> Layers:
        shape = (self.scene.height, self.scene.width)
        masks = np.zeros((len(patches), *shape), np.bool_)
        for mask, patch in zip(masks, patches, strict=True):
            inside = _inside(patch, shape)
            if inside is not None:
                rows, columns, own_rows, own_columns = inside
                mask[rows, columns] = patch.alpha[own_rows, own_columns] >= _COVERED
        count = len(self._objects)
        visible = np.zeros((count, *shape), np.bool_)
        free: Mask = np.logical_not(masks[count:].any(axis=0))
        for number in range(count - 1, -1, -1):
            np.logical_and(masks[number], free, out=visible[number])
            free &= ~masks[number]
        areas = np.array([np.count_nonzero(patch.alpha >= _COVERED) for patch in patches[:count]], np.int64)
        return Layers(masks[:count], visible, masks[count:], areas)

    def _patches(self, index: int, *, painted: bool) -> list[Patch]:
        scene = self.scene
        placed: list[tuple[Sprite, tuple[float, float], float, float]] = []
        for number, (sprite, spec) in enumerate(zip(self._objects, scene.objects, strict=True)):
            pose = scene.pose(number, index)
            placed.append((sprite, (pose.x, pose.y), pose.scale * spec.radius / sprite.radius, pose.angle))
        for sprite, board in zip(self._boards, scene.boards, strict=True):
            pose = board.pose(scene.time_s(index))
            placed.append((sprite, (pose.x, pose.y), 1.0, 0.0))
        return [place(*arguments, painted=painted) for arguments in placed]

    @cached_property
    def _background(self) -> RgbImage:
        look = self.scene.look
        return background(look.background, look.seed, self.scene.width, self.scene.height)

    @cached_property
    def _gain(self) -> RgbImage:
        """(H, W, 3) uint8; 128 leaves a pixel as it is."""
        look = self.scene.look
        x = np.linspace(-1, 1, self.scene.width, dtype=np.float32)
        y = np.linspace(-1, 1, self.scene.height, dtype=np.float32)
        gain = look.gain * (1 + look.slope[0] * x[None] + look.slope[1] * y[:, None])
        return np.repeat(np.clip(gain * 128, 0, 255).astype(np.uint8)[..., None], 3, axis=2)

    @cached_property
    def _noise(self) -> NDArray[np.int16]:
        look = self.scene.look
        size = (self.scene.height + _NOISE_MARGIN, self.scene.width + _NOISE_MARGIN, 3)
        rng = np.random.default_rng([look.seed, 1 << 40])
        return np.rint(rng.standard_normal(size, dtype=np.float32) * look.noise).astype(np.int16)


def _inside(patch: Patch, shape: tuple[int, int]) -> tuple[slice, slice, slice, slice] | None:
    """The rows and columns of the frame that a patch covers, and those of the patch."""
    height, width = patch.alpha.shape
    top, bottom = max(patch.y, 0), min(patch.y + height, shape[0])
    left, right = max(patch.x, 0), min(patch.x + width, shape[1])
    if top >= bottom or left >= right:
        return None
    return (
        slice(top, bottom),
        slice(left, right),
        slice(top - patch.y, bottom - patch.y),
        slice(left - patch.x, right - patch.x),
    )


def _blend(picture: RgbImage, patch: Patch) -> None:
    inside = _inside(patch, (picture.shape[0], picture.shape[1]))
    if inside is None or patch.color is None:
        return
    rows, columns, own_rows, own_columns = inside
    under = picture[rows, columns].astype(np.int16)
    alpha = patch.alpha[own_rows, own_columns, None].astype(np.int32)
    over = patch.color[own_rows, own_columns].astype(np.int16)
    picture[rows, columns] = (under + ((over - under) * alpha + 127) // 255).astype(np.uint8)
