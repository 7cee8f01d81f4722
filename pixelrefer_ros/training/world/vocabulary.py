# SPDX-License-Identifier: Apache-2.0
"""The words of the shapes world: what an object can be, and the numbers behind each word."""

from __future__ import annotations

from typing import NamedTuple

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "cross",
    "ring",
    "crescent",
    "arrow",
    "hourglass",
)
"""Silhouettes that stay apart under any rotation (so no diamond beside the square)."""

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 28, 34),
    "orange": (255, 138, 0),
    "yellow": (250, 222, 36),
    "green": (28, 150, 52),
    "cyan": (64, 206, 216),
    "blue": (32, 62, 214),
    "purple": (122, 38, 168),
    "pink": (252, 128, 192),
    "white": (246, 246, 246),
}
"""sRGB in [0, 255]; hue or saturation tells any two apart under the world's lighting."""

DARK_INK, LIGHT_INK = (22, 22, 26), (250, 250, 250)
INKS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": (DARK_INK, LIGHT_INK),
    "orange": (DARK_INK,),
    "yellow": (DARK_INK,),
    "green": (DARK_INK, LIGHT_INK),
    "cyan": (DARK_INK,),
    "blue": (LIGHT_INK,),
    "purple": (LIGHT_INK,),
    "pink": (DARK_INK,),
    "white": (DARK_INK,),
}
"""What stripes, dots and checks may be drawn in on each colour: always in strong contrast to it."""

SURFACES = ("plain", "striped", "dotted", "checked")

SIZES: dict[str, tuple[float, float]] = {
    "small": (0.11, 0.15),
    "medium": (0.20, 0.28),
    "large": (0.36, 0.48),
}
"""Diameter of the circumscribed circle over the frame's short side. In the gaps no size is asked for."""

DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Motions along an axis, as (x, y) steps in the image."""

MOTIONS = ("still", *DIRECTIONS, "growing", "shrinking", "rotating")
AWAY_AND_BACK = "away and back"
"""The motion of an object that leaves the frame and returns: it has no one direction to ask for."""

PLACES = (
    ("top left", "top", "top right"),
    ("left", "center", "right"),
    ("bottom left", "bottom", "bottom right"),
)
"""Names of the frame's 3 x 3 cells, rows from the top."""

BOARD = "gray board"
"""What the neutral occluders are called; a board covers objects and is never one."""

TURNS = {
    "circle": 0,
    "square": 4,
    "triangle": 3,
    "star": 5,
    "heart": 1,
    "cross": 4,
    "ring": 0,
    "crescent": 1,
    "arrow": 1,
    "hourglass": 2,
}
"""How often a silhouette looks the same on a full turn; 0: it always does."""
ROUND_SHAPES = tuple(shape for shape, times in TURNS.items() if not times)
"""Their rotation cannot be seen on a plain surface, so they never rotate."""


class Combination(NamedTuple):
    """What an object is: the category that a question asks for."""

    shape: str
    color: str
    surface: str

    def __str__(self) -> str:
        """Colour, surface, shape: the order of words in answers."""
        return f"{self.color} {self.surface} {self.shape}"


COMBINATIONS = tuple(
    Combination(shape, color, surface) for shape in SHAPES for color in COLORS for surface in SURFACES
)
"""All 360 of them, in a fixed order."""
