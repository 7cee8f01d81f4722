# SPDX-License-Identifier: Apache-2.0
"""Real photographs as a moving camera would see them, with the true box of the things in them.

The photographs are those that come inside scikit-image's package; nothing is downloaded. The camera looks at
a part of a flat picture, which it pans over and zooms into on smooth curves. So a box drawn once in the
photograph gives the true box in every frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from pixelrefer_ros.types import Box, Frame, RgbImage

_FILES = {"astronaut": "astronaut.png", "coffee": "coffee.png", "cat": "chelsea.png", "rocket": "rocket.jpg"}
_NANOSECONDS = 1_000_000_000

THINGS: Mapping[str, Mapping[str, Box]] = {
    "astronaut": {
        "head": Box(153, 15, 152, 172),
        "helmet": Box(278, 343, 234, 169),
        "patch": Box(132, 347, 79, 78),
        "shuttle": Box(353, 0, 115, 290),
    },
    "coffee": {"cup": Box(172, 17, 238, 293), "spoon": Box(324, 65, 103, 262)},
    "cat": {
        "left eye": Box(134, 82, 79, 70),
        "right eye": Box(295, 108, 56, 57),
        "nose": Box(231, 221, 64, 48),
    },
    "rocket": {"rocket": Box(310, 126, 29, 283)},
}
"""Boxes of things, by photograph and name, in the photograph's own pixels."""


def load_photograph(name: str) -> RgbImage:
    """A photograph of scikit-image's package.

    Args:
        name: a key of `THINGS`.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        FileNotFoundError: scikit-image is not installed, or its package lacks the file.
    """
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise FileNotFoundError("scikit-image is not installed: pip install -r requirements/demo.txt")
    path = Path(package.origin).parent / "data" / _FILES[name]
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise FileNotFoundError(f"{path} is missing: install scikit-image as requirements/demo.txt pins it")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


@dataclass(frozen=True, slots=True)
class View:
    """The part of the photograph that a frame shows, in the photograph's pixels; real numbers."""

    x: float
    y: float
    width: float
    height: float


class MovingCamera:
    """A camera that pans and zooms over a photograph; the same seed moves it the same way.

    Attributes:
        size: width and height of its frames, pixels.
        rate_hz: frames per second.
    """

    def __init__(
        self,
        photograph: RgbImage,
        *,
        rate_hz: float = 12.0,
        seed: int = 0,
        size: tuple[int, int] = (640, 480),
    ) -> None:
        """Point the camera at a photograph.

        Args:
            photograph: (H, W, 3) uint8 RGB.
            rate_hz: frames per second.
            seed: of the motion.
            size: width and height of its frames, pixels.
        """
        self._photograph = photograph
        self.rate_hz, self.size = rate_hz, size
        rng = np.random.default_rng(seed)
        # Periods in seconds of pan, tilt and zoom; unlike, so that the path does not repeat within a minute.
        self._periods = rng.uniform((7.0, 9.0, 11.0), (9.0, 11.0, 14.0))
        self._phases = rng.uniform(0, 2 * math.pi, 3)

    def view(self, index: int) -> View:
        """What frame ``index`` shows."""
        pan, tilt, zoom = (
            math.sin(2 * math.pi * index / self.rate_hz / period + phase)
            for period, phase in zip(self._periods, self._phases, strict=True)
        )
        rows, columns = self._photograph.shape[:2]
        aspect = self.size[0] / self.size[1]
        width = min(columns, rows * aspect) * (0.9 + 0.07 * zoom)
        height = width / aspect
        # Never to the photograph's edge, and never so far that what is in the middle leaves the view.
        right, down = columns - width, rows - height
        x = right / 2 + min(0.4 * right, 0.1 * width) * pan
        y = down / 2 + min(0.4 * down, 0.1 * height) * tilt
        return View(x, y, width, height)

    def frame(self, index: int, *, start_ns: int = 0, frame_id: str = "camera_optical_frame") -> Frame:
        """Take frame ``index``.

        Args:
            index: from 0.
            start_ns: stamp of frame 0.
            frame_id: the optical frame it is said to be taken in.
        """
        view = self.view(index)
        scale = view.width / self.size[0]
        # A frame's pixel (u, v) has its centre at (u + 1/2, v + 1/2) of the view, and so has the
        # photograph's.
        to_photograph = np.array([[scale, 0, view.x + scale / 2 - 0.5], [0, scale, view.y + scale / 2 - 0.5]])
        rgb = np.asarray(
            cv2.warpAffine(
                self._photograph,
                to_photograph,
                self.size,
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            ),
            np.uint8,
        )
        rgb.flags.writeable = False
        return Frame(rgb, start_ns + round(index * _NANOSECONDS / self.rate_hz), frame_id)

    def frames(self, count: int, *, start_ns: int = 0) -> Iterator[Frame]:
        """Take the first ``count`` frames."""
        return (self.frame(index, start_ns=start_ns) for index in range(count))

    def box(self, index: int, thing: Box) -> Box | None:
        """Where a thing is in frame ``index``.

        Args:
            index: from 0.
            thing: its box in the photograph, see `THINGS`.

        Returns:
            Its box in the frame, cut at the frame's edges; None if it is out of view.
        """
        view = self.view(index)
        scale = self.size[0] / view.width
        left, top = round((thing.x - view.x) * scale), round((thing.y - view.y) * scale)
        right = round((thing.x + thing.width - view.x) * scale)
        bottom = round((thing.y + thing.height - view.y) * scale)
        left, top = max(left, 0), max(top, 0)
        right, bottom = min(right, self.size[0]), min(bottom, self.size[1])
        return Box(left, top, right - left, bottom - top) if right > left and bottom > top else None
