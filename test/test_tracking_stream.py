# SPDX-License-Identifier: Apache-2.0
"""Objects followed through a stream: alone and together, through pictures of all kinds, seen and not seen."""

from __future__ import annotations

from collections.abc import Iterator
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
    encoded_pictures,
    follow,
)
from tracking_scene import HEIGHT, WIDTH, moving_frames

from pixelrefer_ros.errors import EmptyRegion, NoSuchObject, Overloaded, ParameterError
from pixelrefer_ros.tracking import StateRules, StreamTracker
from pixelrefer_ros.tracking.tiny import PRESENT_BIAS
from pixelrefer_ros.types import Box, Frame, Region, TrackState

torch.set_num_threads(1)


@pytest.fixture
def tracker() -> StreamTracker:
    return StreamTracker(MODEL, states=OPEN)


@pytest.fixture
def presence() -> Iterator[torch.Tensor]:
    """The bias of the object score head: set it to say that objects are in view, or not."""
    bias = MODEL.mask_decoder.pred_obj_score_head.proj_out.bias
    yield bias
    bias.fill_(PRESENT_BIAS)


def test_objects_in_a_batch_are_followed_as_if_each_were_alone(tracker: StreamTracker) -> None:
    regions = {1: box(1), 2: clicks(2, (70, 50, 1)), 3: drawn(3)}
    alone = {i: StreamTracker(MODEL, states=OPEN) for i in regions}
    for index, frame in enumerate(FRAMES[:12]):
        due = [region for i, region in regions.items() if index == 2 * i]
        tracker.prompt(frame, due)
        tracker.track(frame)
        for region in due:
            alone[region.object_id].prompt(frame, [region])
        for object_id, single in alone.items():
            if single.track(frame):
                assert distance(tracker, single, object_id) < SAME


def test_removed_object_frees_its_slot_and_leaves_the_others_alone(tracker: StreamTracker) -> None:
    twin = StreamTracker(MODEL, states=OPEN)
    for one in (tracker, twin):
        one.prompt(FRAMES[0], [box(1), box(2), box(3)])
        follow(one, FRAMES[:5])
    full = tracker.memory_nbytes
    tracker.remove(2)
    assert tracker.object_ids == (1, 3)
    assert tracker.memory_nbytes * 3 == full * 2
    follow(tracker, FRAMES[5:8]), follow(twin, FRAMES[5:8])
    assert distance(tracker, twin, 1) < SAME
    assert distance(tracker, twin, 3) < SAME
    tracker.prompt(FRAMES[8], [box(4)])
    assert tracker.memory_nbytes == full
    with pytest.raises(NoSuchObject, match=r"object 2 .*\[1, 3, 4\]"):
        tracker.remove(2)


def test_cleared_tracker_follows_nothing_and_computes_nothing(tracker: StreamTracker) -> None:
    tracker.prompt(FRAMES[0], [box(1)])
    tracker.clear()
    calls = encoded_pictures(tracker)
    assert tracker.track(FRAMES[1]) == []
    assert (tracker.object_ids, tracker.memory_nbytes, calls) == ((), 0, [])


def test_cleared_tracker_follows_another_stream_as_a_new_one_does(tracker: StreamTracker) -> None:
    """Of the same stamps, as clips of one length have."""
    tracker.prompt(FRAMES[0], [box(1)])
    follow(tracker, FRAMES[:12])
    tracker.clear()
    fresh = StreamTracker(MODEL, states=OPEN)
    for one in (tracker, fresh):
        one.prompt(FRAMES[0], [box(1)])
        follow(one, FRAMES[1:5])
    assert tracker._session.followed(1).first_distance == 1
    assert distance(tracker, fresh, 1) == 0


def test_picture_is_encoded_once_for_prompting_and_tracking(tracker: StreamTracker) -> None:
    calls = encoded_pictures(tracker)
    tracker.prompt(FRAMES[0], [box(1), drawn(2)])
    tracker.prompt(FRAMES[0], [clicks(3, (40, 40, 1))])
    first = tracker.track(FRAMES[0])
    assert tracker.track(replace(FRAMES[0], rgb=FRAMES[0].rgb.copy())) == first
    assert len(calls) == 1
    follow(tracker, FRAMES[1:3])
    assert len(calls) == 3


def test_pictures_without_stamps_are_told_apart_by_their_array(tracker: StreamTracker) -> None:
    unstamped = [replace(frame, stamp_ns=0) for frame in FRAMES[:3]]
    calls = encoded_pictures(tracker)
    tracker.prompt(unstamped[0], [box(1)])
    follow(tracker, unstamped)
    assert len(calls) == 3


def test_track_on_the_prompt_frame_gives_the_prompts_result(tracker: StreamTracker) -> None:
    tracker.prompt(FRAMES[0], [box(1)])
    follow(tracker, FRAMES[:3])
    prompted = tracker.prompt(FRAMES[3], [box(2), drawn(3)])
    tracks = tracker.track(FRAMES[3])
    assert [track.object_id for track in tracks] == [1, 2, 3]
    assert tracks[1:] == prompted


def test_late_prompt_starts_from_its_frame_and_jumps_to_the_newest(tracker: StreamTracker) -> None:
    tracker.prompt(FRAMES[0], [box(1)])
    follow(tracker, FRAMES[:10])
    (late,) = tracker.prompt(FRAMES[4], [box(2)])
    fresh = StreamTracker(MODEL, states=OPEN)
    (expected,) = fresh.prompt(FRAMES[4], [box(2)])
    assert np.array_equal(late.mask, expected.mask)
    assert tracker._session.followed(2).prompt_place == 4
    again = tracker.track(FRAMES[9])  # tracked before for the other object, not for this one
    assert [track.object_id for track in again] == [1, 2]
    assert tracker._session.followed(2).first_distance == 5
    assert tracker._session.followed(1).remembered[-1] == 9
    assert tracker._session.bank.since_prompt(0) == 9  # not remembered twice
    assert tracker._session.bank.since_prompt(1) == 1


def test_skipped_frames_do_not_exist_for_the_memory(tracker: StreamTracker) -> None:
    """Frames 0, 1, 5, 9 of a camera are to the tracker what four frames in a row are."""
    chosen = [FRAMES[i] for i in (0, 1, 5, 9)]
    in_a_row = [replace(frame, stamp_ns=k + 1) for k, frame in enumerate(chosen)]
    twin = StreamTracker(MODEL, states=OPEN)
    tracker.prompt(chosen[0], [box(1)]), twin.prompt(in_a_row[0], [box(1)])
    follow(tracker, chosen), follow(twin, in_a_row)
    assert distance(tracker, twin, 1) == 0


def test_clock_that_is_set_back_does_not_stop_tracking(tracker: StreamTracker) -> None:
    tracker.prompt(FRAMES[0], [box(1)])
    follow(tracker, FRAMES[:6])
    (track,) = follow(tracker, FRAMES[:3])  # the bag starts again
    assert track.state == TrackState.TRACKED
    assert tracker._session.bank.since_prompt(0) == 5 + 3


def test_object_is_occluded_then_lost_then_tracked_again_when_corrected(presence: torch.Tensor) -> None:
    tracker = StreamTracker(MODEL, states=replace(OPEN, lost_after_frames=3))
    tracker.prompt(FRAMES[0], [box(1)])
    assert follow(tracker, FRAMES[:3])[0].state == TrackState.TRACKED
    presence.fill_(-20)
    states = []
    for frame in FRAMES[3:8]:
        (track,) = tracker.track(frame)
        states.append(track.state)
        assert (track.mask.any(), track.box, track.area_px) == (False, None, 0)
        assert track.score < 0.01
    assert states == [TrackState.OCCLUDED] * 2 + [TrackState.LOST] * 3
    calls = encoded_pictures(tracker)
    tracker.track(FRAMES[8])
    assert calls == []  # a lost object costs nothing
    presence.fill_(PRESENT_BIAS)
    assert tracker.track(FRAMES[9])[0].state == TrackState.LOST  # nothing is guessed
    (track,) = tracker.prompt(FRAMES[10], [box(1)])
    assert track.state == TrackState.TRACKED
    assert follow(tracker, FRAMES[10:13])[0].state == TrackState.TRACKED


def test_clicks_bring_a_lost_object_back(presence: torch.Tensor) -> None:
    tracker = StreamTracker(MODEL, states=replace(OPEN, lost_after_frames=1))
    tracker.prompt(FRAMES[0], [box(1)])
    presence.fill_(-20)
    assert follow(tracker, FRAMES[:2])[0].state == TrackState.LOST
    presence.fill_(PRESENT_BIAS)
    with pytest.raises(EmptyRegion, match="not in view"):
        tracker.prompt(FRAMES[2], [clicks(1, (40, 40, 0))])
    (track,) = tracker.prompt(FRAMES[2], [clicks(1, (40, 40, 1))])
    assert track.state == TrackState.TRACKED


def test_object_found_again_is_tracked_when_lost_ones_are_searched_for(presence: torch.Tensor) -> None:
    rules = replace(OPEN, lost_after_frames=1, find_again_score=0.9)
    tracker = StreamTracker(MODEL, states=rules)
    tracker.prompt(FRAMES[0], [box(1)])
    presence.fill_(-20)
    assert follow(tracker, FRAMES[:3])[0].state == TrackState.LOST
    presence.fill_(PRESENT_BIAS)
    assert tracker.track(FRAMES[3])[0].state == TrackState.TRACKED


def test_mask_over_the_whole_picture_is_not_the_object(tracker: StreamTracker) -> None:
    strict = StreamTracker(MODEL, states=StateRules(max_area_fraction=0.001))
    for one in (tracker, strict):
        one.prompt(FRAMES[0], [drawn(1)])
    (seen,), (hidden,) = tracker.track(FRAMES[1]), strict.track(FRAMES[1])
    assert seen.area_px > 0.001 * HEIGHT * WIDTH
    assert (hidden.state, hidden.area_px, hidden.mask.any()) == (TrackState.OCCLUDED, 0, False)
    assert hidden.score == pytest.approx(seen.score)


def test_given_mask_is_tracked_as_it_is(tracker: StreamTracker) -> None:
    thin = np.zeros((HEIGHT, WIDTH), np.bool_)
    thin[50, 20:140] = True
    (track,) = tracker.prompt(FRAMES[0], [Region(mask=thin, object_id=1)])
    assert np.array_equal(track.mask, thin)
    assert (track.state, track.area_px, track.box) == (TrackState.TRACKED, 120, Box(20, 50, 120, 1))


def test_refused_prompt_changes_nothing() -> None:
    tracker = StreamTracker(MODEL, max_objects=2, states=OPEN)
    tracker.prompt(FRAMES[0], [box(1)])
    calls = encoded_pictures(tracker)
    with pytest.raises(Overloaded, match="bound is 2"):
        tracker.prompt(FRAMES[1], [box(2), box(3)])
    with pytest.raises(EmptyRegion, match="covers no pixel"):
        tracker.prompt(FRAMES[1], [box(2), Region(box=Box(900, 0, 5, 5), object_id=1)])
    assert (tracker.object_ids, calls) == ((1,), [])
    tracker.prompt(FRAMES[1], [box(2), box(1)])
    assert tracker.object_ids == (1, 2)


def test_id_named_twice_is_started_then_corrected(tracker: StreamTracker) -> None:
    tracks = tracker.prompt(FRAMES[0], [box(1), drawn(2), drawn(1)])
    assert [track.object_id for track in tracks] == [1, 2, 1]
    assert np.array_equal(tracks[2].mask, drawn(1).mask)
    assert tracker.object_ids == (1, 2)


def test_frames_may_change_their_size(tracker: StreamTracker) -> None:
    tracker.prompt(FRAMES[0], [box(1)])
    tracker.track(FRAMES[0])
    larger = moving_frames(1, height=90, width=200)[0]
    (track,) = tracker.track(replace(larger, stamp_ns=FRAMES[1].stamp_ns))
    assert track.mask.shape == (90, 200)


def test_read_only_frames_are_taken_as_they_are(tracker: StreamTracker) -> None:
    rgb = FRAMES[0].rgb.copy()
    rgb.setflags(write=False)
    tracker.prompt(Frame(rgb, 1), [box(1)])
    assert np.array_equal(rgb, FRAMES[0].rgb)


def test_tracker_without_room_is_refused() -> None:
    with pytest.raises(ParameterError, match="max_objects is 0"):
        StreamTracker(MODEL, max_objects=0)
