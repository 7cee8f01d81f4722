# SPDX-License-Identifier: Apache-2.0
"""From a seed to a scene: which objects there are, where, how they move, and what hides them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pixelrefer_ros.training.world.backgrounds import BACKGROUNDS
from pixelrefer_ros.training.world.hiding import Hiding, hide, lay_board_over, put_in_front
from pixelrefer_ros.training.world.scene import BoardSpec, Look, ObjectSpec, Rgb, Scene
from pixelrefer_ros.training.world.splits import SEEN, UNSEEN
from pixelrefer_ros.training.world.vocabulary import (
    COLORS,
    COMBINATIONS,
    DIRECTIONS,
    INKS,
    MOTIONS,
    ROUND_SHAPES,
    SIZES,
)

Occlusion = Literal["none", "some", "full", "any"]
FRAME_SIZES = ((320, 240), (424, 240), (480, 360), (640, 480))
"""(width, height) of the frames, px."""

_ATTEMPTS = 60
_GAP = 1.06  # of the sum of two radii: closer than that, objects count as overlapping
_SIZE_SHARES = {"small": 0.4, "medium": 0.42, "large": 0.18}
_TRAVEL = (0.3, 0.62)  # of the frame's side, from the first frame to the last
_GROWTH = (1.6, 2.2)
_SPIN_DEG = (30.0, 60.0)
_COLOR_JITTER = 7
_ALIKE = 0.4  # of the objects share an attribute with another one on purpose
_POOLS = {
    "seen": [combination for combination in COMBINATIONS if combination in SEEN],
    "unseen": [combination for combination in COMBINATIONS if combination in UNSEEN],
}


@dataclass(frozen=True, slots=True)
class SceneSettings:
    """What kind of scenes to draw.

    Attributes:
        frames: T, at least 1.
        rate_hz: frames per second.
        size: (width, height) px; None draws one of `FRAME_SIZES`.
        objects: fewest and most objects asked for; crowded scenes may get fewer, but never none.
        combinations: "seen" ones are those of training; "unseen" those it never shows.
        occlusion: "none": nothing is ever covered and nothing leaves. "some": objects overlap and boards
            cover parts. "full": the first object is wholly hidden for a while and comes back.
            "any": a mixture of these.
        motions: which motions are drawn; the first object of a "full" scene may get another one.
    """

    frames: int = 32
    rate_hz: float = 10.0
    size: tuple[int, int] | None = None
    objects: tuple[int, int] = (1, 8)
    combinations: Literal["seen", "unseen"] = "seen"
    occlusion: Occlusion = "any"
    motions: tuple[str, ...] = MOTIONS


def cast_scene(seed: int, settings: SceneSettings | None = None) -> Scene:
    """Draws the scene of a seed; the same seed and settings give the same scene anywhere."""
    settings = settings or SceneSettings()
    rng = np.random.default_rng([seed, 1])
    width, height = settings.size or FRAME_SIZES[int(rng.integers(len(FRAME_SIZES)))]
    mode = settings.occlusion
    if mode == "any":
        mode = ("none", "some", "full")[int(rng.choice(3, p=(0.32, 0.36, 0.32)))]
    empty = Scene(seed, width, height, settings.frames, settings.rate_hz, (), (), _look(rng))
    closeness = 0.62 if mode == "some" and rng.random() < 0.6 else _GAP
    wanted = int(rng.integers(settings.objects[0], settings.objects[1] + 1))
    objects: list[ObjectSpec] = []
    boards: list[BoardSpec] = []
    if mode == "full" and settings.frames > 1:
        hidden = _first_hidden(rng, empty, settings)
        if hidden is not None:
            objects.append(hidden.hidden)
            boards += hidden.boards
    for _ in range(_ATTEMPTS):
        if len(objects) >= wanted:
            break
        candidate = _object(rng, empty, settings, crowd=wanted, like=objects)
        covered = None
        if objects and mode == "some" and rng.random() < 0.5:
            covered = objects[int(rng.integers(len(objects)))]
            candidate = put_in_front(rng, candidate, covered)
        others = [other for other in objects if other is not covered]
        if _stays_inside(candidate, empty) and all(
            _apart(candidate, other, empty, closeness) for other in others
        ):
            objects.append(candidate)
    if mode == "some" and objects and rng.random() < 0.5:
        boards.append(lay_board_over(rng, objects[int(rng.integers(len(objects)))]))
    if not objects:  # a large moving object may find no way; a still one in the middle always fits
        objects = [replace(_still(rng, empty, settings), x=width / 2, y=height / 2)]
    return replace(empty, objects=tuple(objects), boards=tuple(boards))


def _first_hidden(rng: np.random.Generator, scene: Scene, settings: SceneSettings) -> Hiding | None:
    for _ in range(_ATTEMPTS):
        found = hide(rng, _still(rng, scene, settings, sizes=("small", "medium")), scene)
        if found is not None:
            return found
    return None


def _object(
    rng: np.random.Generator, scene: Scene, settings: SceneSettings, *, crowd: int, like: list[ObjectSpec]
) -> ObjectSpec:
    sizes = tuple(SIZES) if crowd <= 5 else ("small", "medium")
    model = like[int(rng.integers(len(like)))] if like and rng.random() < _ALIKE else None
    still = _still(rng, scene, settings, sizes=sizes, like=model)
    motion = "still" if scene.frames < 2 else settings.motions[int(rng.integers(len(settings.motions)))]
    if motion == "rotating" and still.combination.shape in ROUND_SHAPES:
        motion = "still"
    return move(rng, still, motion, scene)


def _still(
    rng: np.random.Generator,
    scene: Scene,
    settings: SceneSettings,
    *,
    sizes: tuple[str, ...] = ("small", "medium"),
    like: ObjectSpec | None = None,
) -> ObjectSpec:
    pool = _POOLS[settings.combinations]
    if like is not None:  # sharing one attribute with another object, so that "the same" is a question
        shared = int(rng.integers(3))
        pool = [c for c in pool if c[shared] == like.combination[shared]]
    combination = pool[int(rng.integers(len(pool)))]
    shares = np.array([_SIZE_SHARES[size] for size in sizes])
    size = SIZES[sizes[int(rng.choice(len(sizes), p=shares / shares.sum()))]]
    color = np.array(COLORS[combination.color]) + rng.integers(-_COLOR_JITTER, _COLOR_JITTER + 1, 3)
    inks = INKS[combination.color]
    return ObjectSpec(
        combination=combination,
        color=_rgb(np.clip(color, 0, 255)),
        ink=inks[int(rng.integers(len(inks)))],
        pattern_angle=float(rng.uniform(0, math.pi)),
        x=float(rng.uniform(0, scene.width)),
        y=float(rng.uniform(0, scene.height)),
        radius=float(rng.uniform(*size)) * scene.short_side / 2,
        angle=float(rng.uniform(0, 2 * math.pi)),
        motion="still",
    )


def move(rng: np.random.Generator, still: ObjectSpec, motion: str, scene: Scene) -> ObjectSpec:
    """Gives an object a motion of `MOTIONS`, fast enough to be told from stillness over the clip."""
    if motion in DIRECTIONS:
        step = DIRECTIONS[motion]
        side = scene.width if step[0] else scene.height
        speed = float(rng.uniform(*_TRAVEL)) * side / scene.duration_s
        return replace(still, motion=motion, velocity=(step[0] * speed, step[1] * speed))
    if motion in ("growing", "shrinking"):
        ratio = float(rng.uniform(*_GROWTH))
        if motion == "growing":
            return replace(still, motion=motion, growth=ratio, radius=still.radius / math.sqrt(ratio))
        return replace(still, motion=motion, growth=1 / ratio, radius=still.radius * math.sqrt(ratio))
    if motion == "rotating":
        spin = math.radians(float(rng.uniform(*_SPIN_DEG))) * (1 if rng.random() < 0.5 else -1)
        return replace(still, motion=motion, spin=spin)
    return still


def _look(rng: np.random.Generator) -> Look:
    angle, slope = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.16)
    return Look(
        background=BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))],
        seed=int(rng.integers(1 << 31)),
        gain=float(rng.uniform(0.82, 1.06)),
        slope=(float(slope * math.cos(angle)), float(slope * math.sin(angle))),
        blur_px=float(rng.choice((0.0, 0.4, 0.7))),
        noise=float(rng.uniform(0.0, 6.0)),
    )


def _stays_inside(candidate: ObjectSpec, scene: Scene) -> bool:
    for time_s in (0.0, scene.duration_s):
        pose = candidate.pose(time_s, scene.duration_s)
        reach = candidate.radius * pose.scale + 2
        if not (reach <= pose.x <= scene.width - reach and reach <= pose.y <= scene.height - reach):
            return False
    return True


def _apart(one: ObjectSpec, other: ObjectSpec, scene: Scene, closeness: float) -> bool:
    for time_s in np.linspace(0.0, scene.duration_s, 13):
        a, b = one.pose(time_s, scene.duration_s), other.pose(time_s, scene.duration_s)
        reach = one.radius * a.scale + other.radius * b.scale
        if math.hypot(a.x - b.x, a.y - b.y) < closeness * reach:
            return False
    return True


def _rgb(values: np.ndarray) -> Rgb:
    red, green, blue = (int(value) for value in values)
    return (red, green, blue)
