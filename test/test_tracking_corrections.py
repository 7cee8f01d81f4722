# SPDX-License-Identifier: Apache-2.0
"""A box, a mask or clicks for an object that is followed already: what they change, and what they keep."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from tracked_stream import (
    FRAMES,
    MODEL,
    OPEN,
    SAME,
    box,
    clicks,
    distance,
    drawn,
    follow,
)

from pixelrefer_ros.tracking import StreamTracker
from pixelrefer_ros.types import Frame, Region, TrackState

torch.set_num_threads(1)


@pytest.fixture
def tracker() -> StreamTracker:
    return StreamTracker(MODEL, states=OPEN)


@pytest.mark.parametrize("region", [box(1, x=60), drawn(1)], ids=["box", "mask"])
def test_box_or_mask_corrects_at_once_and_later_frames_follow_it(
    region: Region, tracker: StreamTracker
) -> None:
    uncorrected, fresh = StreamTracker(MODEL, states=OPEN), StreamTracker(MODEL, states=OPEN)
    for one in (tracker, uncorrected):
        one.prompt(FRAMES[0], [box(1)])
        follow(one, FRAMES[:8])
    fresh.prompt(FRAMES[8], [region])
    (corrected,) = tracker.prompt(FRAMES[8], [region])
    assert tracker.object_ids == (1,)
    for k in (8, 9, 12):
        tracks = [follow(one, FRAMES[k : k + 1])[0] for one in (tracker, fresh)]
        assert distance(tracker, fresh, 1) < SAME
        assert np.array_equal(tracks[0].mask, tracks[1].mask)
        follow(uncorrected, FRAMES[k : k + 1])
        assert distance(tracker, uncorrected, 1) > 20 * SAME
        if k == 8:
            assert np.array_equal(tracks[0].mask, corrected.mask)


def test_points_refine_what_memory_knows_and_later_frames_follow_them(tracker: StreamTracker) -> None:
    uncorrected, fresh = StreamTracker(MODEL, states=OPEN), StreamTracker(MODEL, states=OPEN)
    for one in (tracker, uncorrected):
        one.prompt(FRAMES[0], [box(1)])
        follow(one, FRAMES[:8])
    region = clicks(1, (120, 80, 1), (30, 40, 0))
    fresh.prompt(FRAMES[8], [region])
    (corrected,) = tracker.prompt(FRAMES[8], [region])
    (track,) = tracker.track(FRAMES[8])
    assert np.array_equal(track.mask, corrected.mask)
    assert distance(tracker, fresh, 1) > 20 * SAME  # the memory had its say
    follow(uncorrected, FRAMES[8:9])
    assert distance(tracker, uncorrected, 1) > 20 * SAME  # and so had the points
    assert tracker._session.bank.since_prompt(0) == 0  # the corrected frame is the prompt frame now
    follow(tracker, FRAMES[9:11]), follow(uncorrected, FRAMES[9:11])
    assert distance(tracker, uncorrected, 1) > 20 * SAME


def test_points_on_a_tracked_frame_see_the_memory_from_before_it() -> None:
    """Correcting a frame after tracking it is the same as correcting it before (while six memories last)."""
    region = clicks(1, (120, 80, 1))
    early, late = StreamTracker(MODEL, states=OPEN), StreamTracker(MODEL, states=OPEN)
    for one in (early, late):
        one.prompt(FRAMES[0], [box(1)])
        follow(one, FRAMES[:4])
    late.track(FRAMES[4])
    for one in (early, late):
        one.prompt(FRAMES[4], [region])
    assert distance(early, late, 1) < SAME


@pytest.fixture
def left_out(tracker: StreamTracker, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many of the newest memories each object was decoded without, one number per object and time."""
    recall, back = tracker._session.bank.recall, []

    def noted(rows, first_distance, steps):
        back.extend(steps)
        return recall(rows, first_distance, steps)

    monkeypatch.setattr(tracker._session.bank, "recall", noted)
    return back


@pytest.mark.parametrize(
    ("index", "newer"), [(4, 3), (6, 2), (8, 0)], ids=["skipped", "tracked", "not yet tracked"]
)
def test_points_leave_out_what_is_remembered_of_their_frame_and_later_ones(
    index: int, newer: int, tracker: StreamTracker, left_out: list[int]
) -> None:
    tracker.prompt(FRAMES[0], [box(1)])
    follow(tracker, [*FRAMES[:4], *FRAMES[5:8]])
    tracker.prompt(FRAMES[index], [clicks(1, (120, 80, 1))])
    assert left_out[-1] == newer


@pytest.mark.parametrize("stamped", [True, False], ids=["after a bag starts again", "without stamps"])
def test_points_on_the_newest_frame_leave_out_its_memory_alone(
    stamped: bool, tracker: StreamTracker, left_out: list[int]
) -> None:
    frames = FRAMES[:6] if stamped else [replace(frame, stamp_ns=0) for frame in FRAMES[:6]]
    tracker.prompt(frames[0], [box(1)])
    follow(tracker, frames + frames[:3])
    tracker.prompt(frames[2], [clicks(1, (120, 80, 1))])
    assert left_out[-1] == 1


def test_a_prompt_frame_without_stamp_keeps_its_place_in_memory_as_long_as_its_object(
    tracker: StreamTracker,
) -> None:
    """So that no later picture lies there and is taken for it."""
    prompted = Frame(FRAMES[0].rgb.copy(), 0)
    picture = weakref.ref(prompted.rgb)
    tracker.prompt(prompted, [box(1)])
    del prompted
    follow(tracker, [replace(frame, stamp_ns=0) for frame in FRAMES[1:4]])
    assert picture() is not None
    tracker.remove(1)
    assert picture() is None


def test_points_on_the_prompt_frame_add_up(tracker: StreamTracker) -> None:
    tracker.prompt(FRAMES[0], [box(1)])
    tracker.prompt(FRAMES[0], [clicks(1, (70, 40, 1))])
    tracker.prompt(FRAMES[0], [clicks(1, (30, 40, 0))])
    points = tracker._session.followed(1).points
    assert points is not None
    assert points.labels.tolist() == [2, 3, 1, 0]
    assert tracker.track(FRAMES[1])[0].state == TrackState.TRACKED


def test_points_on_the_prompt_frame_refine_its_mask_though_the_stream_has_moved_on(
    tracker: StreamTracker,
) -> None:
    at_once = StreamTracker(MODEL, states=OPEN)
    for one in (tracker, at_once):
        one.prompt(FRAMES[0], [box(1)])
    follow(tracker, FRAMES[:4])
    for one in (tracker, at_once):
        one.prompt(FRAMES[0], [clicks(1, (70, 40, 1))])
    assert distance(tracker, at_once, 1) < SAME


def test_points_of_one_object_stay_bounded_and_keep_its_box(tracker: StreamTracker) -> None:
    tracker.prompt(FRAMES[0], [box(1)])
    for k in range(3):
        many = clicks(1, *[(float(k), float(i), 1) for i in range(40)])
        tracker.prompt(FRAMES[0], [many])
    points = tracker._session.followed(1).points
    assert points is not None
    assert points.labels.tolist() == [2, 3] + [1] * 62
    assert points.points[-1].tolist() == [2, 39]
