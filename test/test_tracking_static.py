# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from pixelrefer_ros.errors import EmptyRegion, NoSuchObject, Overloaded
from pixelrefer_ros.tracking import StaticTracker, Tracker
from pixelrefer_ros.types import Box, Frame, Region, TrackState

FRAME = Frame(np.zeros((48, 64, 3), np.uint8), 1)
LATER = Frame(np.zeros((48, 64, 3), np.uint8), 2)


def test_box_is_its_filled_rectangle_in_every_frame() -> None:
    tracker: Tracker = StaticTracker()
    tracker.prompt(FRAME, [Region(box=Box(-5, 10, 20, 8), object_id=4)])
    (track,) = tracker.track(LATER)
    expected = np.zeros((48, 64), np.bool_)
    expected[10:18, 0:15] = True
    assert np.array_equal(track.mask, expected)
    assert (track.object_id, track.state, track.score) == (4, TrackState.TRACKED, 1.0)
    assert track.box == Box(0, 10, 15, 8)
    assert track.area_px == 120


def test_mask_is_itself_and_later_changes_of_the_array_do_not_matter() -> None:
    mask = np.zeros((48, 64), np.bool_)
    mask[3:9, 4:20] = True
    tracker, kept = StaticTracker(), mask.copy()
    tracker.prompt(FRAME, [Region(mask=mask, object_id=1)])
    mask[:] = True
    assert np.array_equal(tracker.track(LATER)[0].mask, kept)


def test_correction_moves_the_object() -> None:
    tracker = StaticTracker()
    tracker.prompt(
        FRAME, [Region(box=Box(0, 0, 5, 5), object_id=1), Region(box=Box(9, 9, 5, 5), object_id=2)]
    )
    tracker.prompt(LATER, [Region(box=Box(20, 20, 5, 5), object_id=1)])
    assert tracker.object_ids == (1, 2)
    assert [track.box for track in tracker.track(LATER)] == [Box(20, 20, 5, 5), Box(9, 9, 5, 5)]


def test_points_are_refused_and_nothing_else_of_the_prompt_is_applied() -> None:
    tracker = StaticTracker()
    points = Region(points=np.array([[3, 3]], np.float32), object_id=2)
    with pytest.raises(EmptyRegion, match="points"):
        tracker.prompt(FRAME, [Region(box=Box(0, 0, 5, 5), object_id=1), points])
    assert tracker.object_ids == ()


def test_bound_and_unknown_objects_are_refused() -> None:
    tracker = StaticTracker(max_objects=1)
    tracker.prompt(FRAME, [Region(box=Box(0, 0, 5, 5), object_id=1)])
    with pytest.raises(Overloaded, match="bound is 1"):
        tracker.prompt(FRAME, [Region(box=Box(0, 0, 5, 5), object_id=2)])
    with pytest.raises(NoSuchObject, match="7"):
        tracker.remove(7)
    tracker.remove(1)
    assert tracker.track(FRAME) == []


def test_frame_of_another_size_hides_the_object() -> None:
    tracker = StaticTracker()
    tracker.prompt(FRAME, [Region(box=Box(0, 0, 5, 5), object_id=1)])
    (track,) = tracker.track(Frame(np.zeros((24, 32, 3), np.uint8), 3))
    assert (track.state, track.area_px, track.mask.shape) == (TrackState.OCCLUDED, 0, (24, 32))
