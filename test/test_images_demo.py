# SPDX-License-Identifier: Apache-2.0
"""The demo's pictures: real photographs, a smooth known motion, and true boxes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from pixelrefer_ros.types import Box

pytest.importorskip("skimage")
sys.path.insert(0, str(Path(__file__).parent.parent / "demo"))

from pictures import THINGS, MovingCamera, load_photograph


def find_box(rgb: np.ndarray) -> Box:
    """The box of what is pure green."""
    green = (rgb[:, :, 1] > 127) & (rgb[:, :, 0] < 128)
    rows, columns = np.flatnonzero(green.any(axis=1)), np.flatnonzero(green.any(axis=0))
    return Box(int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("index", [0, 13, 77, 200])
def test_the_box_is_where_the_thing_is_in_the_frame(seed, index):
    photograph = np.zeros((420, 600, 3), np.uint8)
    thing = Box(240, 150, 90, 110)
    photograph[150:260, 240:330] = (0, 255, 0)
    camera = MovingCamera(photograph, seed=seed)
    expected, found = camera.box(index, thing), find_box(camera.frame(index).rgb)
    assert expected is not None
    for name in ("x", "y", "width", "height"):
        # Rounding to whole pixels, twice: of the true edge, and of the blurred edge in the picture.
        assert abs(getattr(expected, name) - getattr(found, name)) <= 2


def test_a_thing_out_of_view_has_no_box_and_one_at_the_edge_is_cut():
    camera = MovingCamera(np.zeros((420, 600, 3), np.uint8))
    assert camera.box(0, Box(0, 0, 2, 2)) is None
    cut = camera.box(0, Box(0, 0, 600, 420))
    assert cut == Box(0, 0, 640, 480)


@pytest.mark.parametrize("name", sorted(THINGS))
def test_every_photograph_is_there_and_its_things_stay_in_view(name):
    camera = MovingCamera(load_photograph(name), seed=3)
    frame = camera.frame(5, start_ns=7)
    assert frame.rgb.shape == (480, 640, 3)
    assert frame.rgb.std() > 20, "a photograph, not an even colour"
    assert frame.stamp_ns == 7 + round(5e9 / 12)
    for thing in THINGS[name].values():
        for index in range(0, 360, 12):
            box = camera.box(index, thing)
            assert box is not None
            assert box.width * box.height > 1500


def test_the_motion_is_smooth_and_repeatable():
    photograph = load_photograph("coffee")
    cup = THINGS["coffee"]["cup"]
    camera, again = MovingCamera(photograph, seed=4), MovingCamera(photograph, seed=4)
    boxes = [camera.box(index, cup) for index in range(240)]
    assert boxes == [again.box(index, cup) for index in range(240)]
    corners = np.array([(box.x + box.width, box.y + box.height) for box in boxes if box])
    steps = np.abs(np.diff(corners, axis=0))
    assert steps.max() <= 10, "pixels from one frame to the next"
    assert np.ptp(corners, axis=0).min() > 20, "and yet it moves"
    np.testing.assert_array_equal(camera.frame(9).rgb, again.frame(9).rgb)
    assert boxes != [MovingCamera(photograph, seed=5).box(index, cup) for index in range(240)]
