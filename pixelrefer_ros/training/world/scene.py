# SPDX-License-Identifier: Apache-2.0
"""A scene as a specification: everything that decides its pixels, and nothing measured from them.

Coordinates are (x, y) pixels from the frame's top-left corner; times are seconds from the first frame;
angles are radians, clockwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from pixelrefer_ros.training.world.vocabulary import AWAY_AND_BACK, Combination

Rgb = tuple[int, int, int]


class Pose(NamedTuple):
    """Where a thing is at one time: its middle (px), its size over the specified one, its turn (rad)."""

    x: float
    y: float
    scale: float
    angle: float


@dataclass(frozen=True, slots=True)
class ObjectSpec:
    """One object.

    Attributes:
        combination: its shape, colour word and surface.
        color, ink: the RGB drawn; the colour varies a little around its word's.
        pattern_angle: of the surface's pattern in the object, rad.
        x, y: its centroid at the first frame, px.
        radius: of the circumscribed circle at the first frame, px.
        angle: at the first frame, rad.
        motion: one of `MOTIONS`, or `AWAY_AND_BACK`.
        velocity: (x, y) px/s.
        growth: size at the last frame over that at the first.
        spin: rad/s.
        turn_s: when an object that goes away turns back; 0 otherwise.
    """

    combination: Combination
    color: Rgb
    ink: Rgb
    pattern_angle: float
    x: float
    y: float
    radius: float
    angle: float
    motion: str
    velocity: tuple[float, float] = (0.0, 0.0)
    growth: float = 1.0
    spin: float = 0.0
    turn_s: float = 0.0

    def pose(self, time_s: float, duration_s: float) -> Pose:
        """Where it is at a time, in a clip of ``duration_s`` from the first frame to the last."""
        along = time_s
        if self.motion == AWAY_AND_BACK:  # out, back to where it came from, and then it rests
            along = max(0.0, min(time_s, 2 * self.turn_s - time_s))
        scale = math.pow(self.growth, time_s / duration_s) if duration_s > 0 else 1.0
        return Pose(
            self.x + self.velocity[0] * along,
            self.y + self.velocity[1] * along,
            scale,
            self.angle + self.spin * time_s,
        )


@dataclass(frozen=True, slots=True)
class BoardSpec:
    """A neutral board in front of everything: it hides objects and is never asked about as one.

    Attributes:
        x, y: its middle at the first frame, px.
        width, height: px.
        shade: its grey level.
        seed: of its grain.
        velocity: (x, y) px/s.
    """

    x: float
    y: float
    width: float
    height: float
    shade: int
    seed: int
    velocity: tuple[float, float] = (0.0, 0.0)

    def pose(self, time_s: float) -> Pose:
        """Where it is at a time."""
        return Pose(self.x + self.velocity[0] * time_s, self.y + self.velocity[1] * time_s, 1.0, 0.0)


@dataclass(frozen=True, slots=True)
class Look:
    """Background and camera.

    Attributes:
        background: one of `BACKGROUNDS`.
        seed: of the background and of the noise.
        gain: brightness in the middle of the frame.
        slope: (x, y) change of the gain from the middle to the border.
        blur_px: standard deviation of the lens blur, px; 0 is none.
        noise: standard deviation of the pixel noise, grey levels.
    """

    background: str
    seed: int
    gain: float
    slope: tuple[float, float]
    blur_px: float
    noise: float


@dataclass(frozen=True, slots=True)
class Scene:
    """A short clip, as drawn from its seed.

    Attributes:
        seed: which scene this is; see `scene_seeds`.
        width, height: px.
        frames: T.
        rate_hz: frames per second.
        objects: from the furthest to the nearest: a later one covers an earlier one.
        boards: in front of all objects.
        look: background and camera.
    """

    seed: int
    width: int
    height: int
    frames: int
    rate_hz: float
    objects: tuple[ObjectSpec, ...]
    boards: tuple[BoardSpec, ...]
    look: Look

    @property
    def short_side(self) -> int:
        """The smaller of width and height, px: what sizes and distances are measured against."""
        return min(self.width, self.height)

    @property
    def duration_s(self) -> float:
        """From the first frame to the last."""
        return (self.frames - 1) / self.rate_hz

    def time_s(self, index: int) -> float:
        """When a frame is taken."""
        return index / self.rate_hz

    def pose(self, number: int, index: int) -> Pose:
        """The pose of object ``number`` in frame ``index``."""
        return self.objects[number].pose(self.time_s(index), self.duration_s)

    def diameter(self, number: int, index: int) -> float:
        """Circumscribed diameter of an object in a frame over the short side: what its size word means."""
        return 2 * self.objects[number].radius * self.pose(number, index).scale / self.short_side
