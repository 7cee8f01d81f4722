# SPDX-License-Identifier: Apache-2.0
"""Specks of a mask somewhere else in the picture are not reported: no crop of the object reaches to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from tracking_scene import HEIGHT, WIDTH, moving_frames

from pixelrefer_ros.tracking import StateRules, StreamTracker
from pixelrefer_ros.tracking.masks import mask_at_frame_size
from pixelrefer_ros.tracking.parts import without_specks
from pixelrefer_ros.tracking.steps import Decoded
from pixelrefer_ros.tracking.tiny import tiny_sam2
from pixelrefer_ros.types import Box, Region

torch.set_num_threads(1)

Logits = NDArray[np.float32]


def logits_of(*parts: tuple[slice, slice]) -> Logits:
    logits = np.full((32, 32), -4.0, np.float32)
    for part in parts:
        logits[part] = 3.0
    return logits


OBJECT, SPECK = np.s_[4:14, 4:14], np.s_[24:26, 28:30]


def test_the_box_of_a_mask_with_a_speck_is_that_of_the_object():
    logits = logits_of(OBJECT, SPECK)
    _, box, area = mask_at_frame_size(without_specks(logits, 0.1), 320, 320)
    assert (box, area) == mask_at_frame_size(logits_of(OBJECT), 320, 320)[1:]
    assert mask_at_frame_size(logits, 320, 320)[1] != box


def test_an_object_in_two_pieces_stays_whole():
    behind_a_pole = logits_of(np.s_[4:14, 4:14], np.s_[4:14, 18:21])
    assert without_specks(behind_a_pole, 0.1) is behind_a_pole


def test_pieces_that_touch_at_a_corner_are_one():
    touching = logits_of(np.s_[4:14, 4:14], np.s_[14:15, 14:15])
    assert without_specks(touching, 0.5) is touching


def test_none_is_taken_out_where_the_share_is_0():
    specked = logits_of(OBJECT, SPECK)
    assert without_specks(specked, 0.0) is specked


@given(
    logits=arrays.arrays(np.float32, (9, 9), elements=st.sampled_from([-1.0, 0.0, 2.0])),
    smallest=st.floats(0, 1),
)
def test_the_largest_part_stays_and_nothing_is_added(logits: Logits, smallest: float):
    before = logits.copy()
    kept = without_specks(logits, smallest)
    assert np.array_equal(logits, before)
    assert (kept <= logits).all() and (kept > 0).any() == (logits > 0).any()
    assert np.array_equal(without_specks(kept, smallest), kept)


@pytest.mark.parametrize("smallest", [0.0, 0.1])
def test_a_tracker_reports_boxes_without_specks_but_a_users_mask_to_the_pixel(
    smallest: float, monkeypatch: pytest.MonkeyPatch
):
    frames = moving_frames(3)
    tracker = StreamTracker(tiny_sam2(seed=3, image_size=64), states=StateRules(smallest_part=smallest))
    drawn = np.zeros((HEIGHT, WIDTH), np.bool_)
    drawn[:20, :20] = drawn[-1, -1] = True
    (given_mask,) = tracker.prompt(frames[0], [Region(mask=drawn, object_id=1)])
    assert np.array_equal(given_mask.mask, drawn)

    logits = torch.from_numpy(logits_of(OBJECT, SPECK))[None]
    pointer = torch.zeros(1, tracker._session.followed(1).pointer.shape[-1])
    decoded = Decoded(logits, torch.full((1,), 4.0), pointer)
    monkeypatch.setattr(tracker._sam2, "propagate", lambda conditioned, features: decoded)
    monkeypatch.setattr(tracker._sam2, "point_at", lambda *_, **__: decoded)
    (followed,) = tracker.track(frames[1])
    (clicked,) = tracker.prompt(frames[2], [Region(box=Box(5, 5, 9, 9), object_id=1)])
    for track in (followed, clicked):
        _, box, area = mask_at_frame_size(logits_of(OBJECT, *[SPECK] * (smallest == 0)), HEIGHT, WIDTH)
        assert (track.box, track.area_px) == (box, area)
