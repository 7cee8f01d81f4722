# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelrefer_ros.errors import EmptyRegion, ImageError, NoSuchObject
from pixelrefer_ros.tracking.prompts import (
    MaskPrompt,
    PointPrompt,
    check_frame,
    clip_box,
    to_prompt,
)
from pixelrefer_ros.types import MAX_POINTS, Box, Region

HEIGHT, WIDTH = 48, 64
coordinate = st.integers(-200, 200)


@given(x=coordinate, y=coordinate, width=coordinate, height=coordinate)
def test_box_covers_a_pixel_or_is_refused(x: int, y: int, width: int, height: int) -> None:
    covered = {
        (column, row)
        for column in range(max(x, 0), min(x + width, WIDTH))
        for row in range(max(y, 0), min(y + height, HEIGHT))
    }
    box = Box(x, y, width, height)
    if covered:
        inside = clip_box(box, HEIGHT, WIDTH)
        assert inside.width * inside.height == len(covered)
        assert (inside.x, inside.y) == min(covered)
    else:
        with pytest.raises(EmptyRegion, match=f"x={x} y={y} width={width} height={height}"):
            clip_box(box, HEIGHT, WIDTH)


@given(st.lists(st.tuples(st.floats(width=32), st.floats(width=32)), min_size=1, max_size=4))
def test_points_lie_on_the_frame_or_are_refused(points: list[tuple[float, float]]) -> None:
    region = Region(points=np.array(points, np.float32), object_id=1)
    if all(0 <= x < WIDTH and 0 <= y < HEIGHT for x, y in points):
        prompt = to_prompt(region, HEIGHT, WIDTH)
        assert isinstance(prompt, PointPrompt)
        assert prompt.labels.tolist() == [1] * len(points)
    else:
        with pytest.raises(EmptyRegion, match="outside"):
            to_prompt(region, HEIGHT, WIDTH)


@given(st.integers(1, 70), st.integers(1, 70), st.booleans())
def test_mask_of_another_size_or_without_pixels_is_refused(height: int, width: int, filled: bool) -> None:
    region = Region(mask=np.full((height, width), filled), object_id=1)
    if (height, width) == (HEIGHT, WIDTH) and filled:
        assert isinstance(to_prompt(region, HEIGHT, WIDTH), MaskPrompt)
    else:
        with pytest.raises(EmptyRegion):
            to_prompt(region, HEIGHT, WIDTH)


def test_empty_mask_is_refused() -> None:
    with pytest.raises(EmptyRegion, match="no pixel set"):
        to_prompt(Region(mask=np.zeros((HEIGHT, WIDTH), np.bool_), object_id=1), HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (Region(object_id=1), "nothing"),
        (Region(box=Box(0, 0, 5, 5), points=np.zeros((1, 2), np.float32), object_id=1), "box and points"),
        (Region(points=np.zeros((0, 2), np.float32), object_id=1), "shape"),
        (Region(points=np.zeros((MAX_POINTS + 1, 2), np.float32), object_id=1), "shape"),
        (Region(points=np.zeros((2, 3), np.float32), object_id=1), "shape"),
        (
            Region(points=np.zeros((2, 2), np.float32), point_labels=np.array([1], np.int32), object_id=1),
            "labels",
        ),
        (
            Region(points=np.zeros((1, 2), np.float32), point_labels=np.array([7], np.int32), object_id=1),
            "labels",
        ),
        (Region(mask=np.ones((HEIGHT, WIDTH), np.uint8), object_id=1), "bool"),  # type: ignore[arg-type]
    ],
)
def test_region_that_is_not_one_good_kind_is_refused(region: Region, message: str) -> None:
    with pytest.raises(EmptyRegion, match=message):
        to_prompt(region, HEIGHT, WIDTH)


@pytest.mark.parametrize("object_id", [0, -3])
def test_object_id_must_be_positive(object_id: int) -> None:
    with pytest.raises(NoSuchObject, match=str(object_id)):
        to_prompt(Region(box=Box(0, 0, 5, 5), object_id=object_id), HEIGHT, WIDTH)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 4), (4, 4, 4)])
def test_frame_that_is_no_rgb_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="shape"):
        check_frame(np.zeros(shape, np.uint8))
