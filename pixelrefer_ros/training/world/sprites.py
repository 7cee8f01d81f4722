# SPDX-License-Identifier: Apache-2.0
"""One object's picture: silhouette, colour and surface, drawn once and then warped into every frame."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pixelrefer_ros.training.world.outlines import outline

Rgb = tuple[int, int, int]

_STRIPE_PERIOD, _STRIPE_INK = 0.46, 0.44
_DOT_SPACING, _DOT_RADIUS = 0.48, 0.125
_CHECK_CELL = 0.4
_RIM = 0.07
_SPARE = 1.25  # sprite pixels per pixel they are warped to: enough that turning loses nothing
_FINE_BELOW = 40.0  # px of radius: smaller objects are warped at twice the resolution and averaged
_FRACTION_BITS = 4


@dataclass(frozen=True, eq=False, slots=True)
class Sprite:
    """A picture with an outline, before it is placed.

    Attributes:
        color: (S, S, 3) uint8 RGB, not multiplied by alpha.
        alpha: (S, S) uint8 coverage.
        unit: sprite pixels per pixel at scale 1, where its radius is that of `radius`.
        radius: px in the frame at scale 1.
        fine: it is warped at so many times the frame's resolution, and averaged.
    """

    color: NDArray[np.uint8]
    alpha: NDArray[np.uint8]
    unit: float
    radius: float
    fine: int


@dataclass(frozen=True, eq=False, slots=True)
class Patch:
    """A sprite placed in a frame.

    Attributes:
        x, y: the frame's pixel under the patch's top-left one; may be negative.
        color: (h, w, 3) uint8 RGB; None where only the outline was asked for.
        alpha: (h, w) uint8 coverage.
    """

    x: int
    y: int
    color: NDArray[np.uint8] | None
    alpha: NDArray[np.uint8]


def object_sprite(
    shape: str, surface: str, color: Rgb, ink: Rgb, pattern_angle: float, radius: float
) -> Sprite:
    """Draws an object.

    Args:
        shape: a word of the vocabulary.
        surface: likewise.
        color: RGB of the object.
        ink: RGB of its pattern.
        pattern_angle: of the pattern in the object, rad.
        radius: circumscribed, px, as large as it gets.
    """
    fine = 2 if radius < _FINE_BELOW else 1
    drawn = radius * fine * _SPARE
    half = int(np.ceil(drawn)) + 2
    side = 2 * half + 1
    alpha = np.zeros((side, side), np.uint8)
    scale = 1 << _FRACTION_BITS
    traced = drawn - 0.5  # an anti-aliased polygon is filled half a pixel beyond its outline
    contours = [np.round((half + contour * traced) * scale).astype(np.int32) for contour in outline(shape)]
    cv2.fillPoly(alpha, contours, 255, cv2.LINE_AA, _FRACTION_BITS)
    axis = (np.arange(side, dtype=np.float32) - half) / drawn
    u = np.cos(pattern_angle) * axis[None] + np.sin(pattern_angle) * axis[:, None]
    v = -np.sin(pattern_angle) * axis[None] + np.cos(pattern_angle) * axis[:, None]
    # The pattern keeps off the edge: dark ink on a dark background would bite into the silhouette.
    rim = 2 * max(1, round(_RIM * drawn)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (rim, rim))
    inside = cv2.erode(alpha, kernel) > 0
    picture = np.where(
        (inside & _ink(surface, u, v))[..., None], np.array(ink, np.uint8), np.array(color, np.uint8)
    )
    return Sprite(picture, alpha, drawn / radius, radius, fine)


def board_sprite(width: float, height: float, shade: int, seed: int) -> Sprite:
    """Draws a neutral board of ``width`` x ``height`` px with a faint grain, in grey ``shade``."""
    radius = max(width, height) / 2
    w, h = max(3, round(width)), max(3, round(height))
    rng = np.random.default_rng(seed)
    grain = rng.normal(0.0, 5.0, (h if width > height else 1, 1 if width > height else w))
    grey = np.clip(shade + np.broadcast_to(grain, (h, w)), 0, 255).astype(np.uint8)
    grey[:2], grey[-2:], grey[:, :2], grey[:, -2:] = (max(shade - 40, 0),) * 4
    return Sprite(np.repeat(grey[..., None], 3, axis=2), np.full((h, w), 255, np.uint8), 1.0, radius, 1)


def place(
    sprite: Sprite, center: tuple[float, float], scale: float, angle: float, *, painted: bool = True
) -> Patch:
    """Warps a sprite to where it is in a frame.

    Args:
        sprite: what to place.
        center: (x, y) of its middle, px.
        scale: its size over that at which it was drawn.
        angle: turned clockwise by so much, rad.
        painted: False leaves the colours out, for masks alone.
    """
    height, width = sprite.alpha.shape
    reach = np.hypot(height, width) / 2 / sprite.unit * scale + 1
    x0, y0 = int(np.floor(center[0] - reach)), int(np.floor(center[1] - reach))
    side = int(np.ceil(2 * reach)) + 2
    zoom = scale * sprite.fine / sprite.unit
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    # Pixel centres: coordinate c of the frame is (c + 0.5) * supersampling - 0.5 in the fine patch.
    target_x = (center[0] - x0 + 0.5) * sprite.fine - 0.5
    target_y = (center[1] - y0 + 0.5) * sprite.fine - 0.5
    matrix = np.array(
        [
            [cos, -sin, target_x - cos * middle_x + sin * middle_y],
            [sin, cos, target_y - sin * middle_x - cos * middle_y],
        ]
    )
    fine = (side * sprite.fine, side * sprite.fine)
    alpha = _averaged(cv2.warpAffine(sprite.alpha, matrix, fine), sprite.fine)
    color = None
    if painted:
        warped = cv2.warpAffine(sprite.color, matrix, fine, borderMode=cv2.BORDER_REPLICATE)
        color = _averaged(warped, sprite.fine)
    return Patch(x0, y0, color, alpha)


def _averaged(picture: np.ndarray, factor: int) -> NDArray[np.uint8]:
    if factor == 1:
        return picture.astype(np.uint8, copy=False)
    size = (picture.shape[1] // factor, picture.shape[0] // factor)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _ink(surface: str, u: NDArray[np.float32], v: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where the pattern is, in the object's own unit coordinates."""
    if surface == "striped":
        return np.mod(u / _STRIPE_PERIOD, 1.0) < _STRIPE_INK
    if surface == "dotted":
        du = (np.mod(u / _DOT_SPACING, 1.0) - 0.5) * _DOT_SPACING
        dv = (np.mod(v / _DOT_SPACING, 1.0) - 0.5) * _DOT_SPACING
        return du * du + dv * dv < _DOT_RADIUS**2
    if surface == "checked":
        return (np.floor(u / _CHECK_CELL) + np.floor(v / _CHECK_CELL)) % 2 == 0
    return np.zeros(np.broadcast_shapes(u.shape, v.shape), np.bool_)
