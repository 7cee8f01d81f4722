# SPDX-License-Identifier: Apache-2.0
"""Masks in annotation files: COCO run lengths there and back, polygons, and what cannot be a mask."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pixelrefer_ros.errors import ImageError
from pixelrefer_ros.training.coco_masks import decode_rle, encode_rle, mask_of

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


@given(mask=MASKS, compressed=st.booleans())
def test_run_lengths_come_back_as_they_were(mask, compressed):
    rle = json.loads(json.dumps(encode_rle(mask, compressed=compressed)))
    assert (mask_of(rle, mask.shape) == mask).all()


@given(runs=st.lists(st.integers(1, 1 << 20), min_size=1, max_size=8))
def test_long_runs_come_back_too(runs):
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    if flat.size > 1 << 21:
        flat = flat[: 1 << 21]
    mask = flat.reshape(1, -1)
    assert (decode_rle(encode_rle(mask)) == mask).all()


def test_the_text_is_coco_s():
    # By hand from the format: five bits a character, 48 added; the fourth run is written as 4 - 2.
    expected = np.repeat([False, True, False, True], [1, 2, 3, 4]).reshape(2, 5, order="F")
    assert (decode_rle({"size": [2, 5], "counts": "1232"}) == expected).all()
    assert encode_rle(expected)["counts"] == "1232"


@given(counts=st.one_of(st.text(max_size=12), st.lists(st.integers(-3, 40), max_size=6), st.none()))
def test_any_counts_are_a_mask_or_refused(counts):
    try:
        mask = decode_rle({"size": [3, 4], "counts": counts})
    except ImageError:
        return
    assert mask.shape == (3, 4)


def test_a_polygon_covers_its_pixels():
    square = [2, 1, 8, 1, 8, 5, 2, 5]
    expected = np.zeros((10, 12), bool)
    expected[1:5, 2:8] = True
    for given_as in ([square], square):
        assert (mask_of(given_as, (10, 12)) == expected).all()
    assert (mask_of([square, [0, 8, 3, 8, 3, 10, 0, 10]], (10, 12))[8:, :3]).all()


CORNERS = st.lists(
    st.tuples(st.floats(-9, 40, width=32), st.floats(-9, 30, width=32)), min_size=3, max_size=9
)


@given(corners=CORNERS)
def test_a_polygon_is_the_same_from_either_side(corners):
    """Edges are counted along rows; along columns they must tell the same inside."""
    corner_pixel = [0, 0, 1, 0, 1, 1, 0, 1]  # never empty: an empty polygon is drawn in another way
    across = mask_of([[v for x, y in corners for v in (x, y)], corner_pixel], (20, 30))
    down = mask_of([[v for x, y in corners for v in (y, x)], corner_pixel], (30, 20))
    path = np.array(corners, np.float32).reshape(-1, 1, 2)
    for row, column in np.argwhere(across != down.T):  # a centre on an edge may fall to either side
        assert abs(cv2.pointPolygonTest(path, (column + 0.5, row + 0.5), True)) < 1e-3


def test_a_polygon_thinner_than_a_pixel_is_what_it_touches():
    found = mask_of([[2, 3.6, 8, 3.6, 8, 3.7, 2, 3.7]], (10, 12))
    assert np.argwhere(found).tolist() == [[3, column] for column in range(2, 9)]


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "mask",
        [],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, "6"]],
        [[0, 0, 1e300, 0, 0, 1]],
        {"size": [2, 2]},
        {"size": [2, -2], "counts": [4]},
        {"size": [2, 2], "counts": [5]},
        {"size": [1 << 20, 1 << 20], "counts": [1 << 40]},
        {"size": [2, 2], "counts": "\u20ac"},
    ],
)
def test_what_is_no_mask_is_refused(wrong):
    with pytest.raises(ImageError):
        mask_of(wrong, (4, 4))


def test_a_mask_of_another_size_than_its_picture_is_refused():
    with pytest.raises(ImageError, match="picture"):
        mask_of(encode_rle(np.ones((3, 4), bool)), (4, 3))
