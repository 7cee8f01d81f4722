# SPDX-License-Identifier: Apache-2.0
"""The ring of frames: bounded, spaced, exact."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelrefer_ros.errors import NoFrame
from pixelrefer_ros.perception.memory import NEAR_NS, FrameMemory, RememberedMask, spread
from pixelrefer_ros.types import NANOSECONDS, Box, Frame, Track, TrackState

PIXELS = np.zeros((8, 8, 3), np.uint8)


def remember(stamps, capacity=5, interval_s=0.0):
    memory = FrameMemory(capacity, interval_s)
    for stamp in stamps:
        memory.add(memory.arrived(Frame(PIXELS, stamp)))
    return memory


def stamps_of(memory):
    return [seen.frame.stamp_ns for seen in memory.showing(())]


@given(st.data(), st.integers(1, 40), st.integers(1, 40))
def test_a_remembered_mask_is_the_mask(data, height, width):
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = Box(left, top, data.draw(st.integers(1, width - left)), data.draw(st.integers(1, height - top)))
    mask = np.zeros((height, width), bool)
    seed = data.draw(st.integers(0, 99))
    inside = np.random.default_rng(seed).random((box.height, box.width)) > 0.5
    mask[box.y : box.y + box.height, box.x : box.x + box.width] = inside
    assert np.array_equal(RememberedMask.of(mask, box).unpack(), mask)


@given(st.lists(st.integers(1, 10**6), max_size=60), st.integers(1, 6), st.sampled_from([0.0, 1e-4, 1e-3]))
def test_memory_is_bounded_spaced_and_holds_the_newest(gaps, capacity, interval_s):
    stamps = list(np.cumsum(gaps))
    kept = stamps_of(remember(stamps, capacity, interval_s))
    assert len(kept) <= capacity and kept == sorted(kept) and set(kept) <= set(stamps)
    assert kept[-1:] == stamps[-1:]
    assert all(b - a >= interval_s * 1e9 for a, b in pairwise(kept[:-1]))


def test_frames_are_kept_at_the_interval_not_thinned_away():
    kept = stamps_of(remember(range(0, 1_000_000_000, 33_000_000), capacity=20, interval_s=0.1))
    assert len(kept) >= 8  # 1 s at 0.132 s (the first multiple of 33 ms from 0.1 s on)


def test_a_frame_that_was_pointed_at_does_not_make_way_for_the_next():
    memory = FrameMemory(4, 1.0)
    for stamp in range(1, 8):
        seen = memory.arrived(Frame(PIXELS, stamp))
        seen.pointed_at = stamp == 3
        memory.add(seen)
    assert stamps_of(memory) == [1, 3, 7]


@pytest.mark.parametrize("stamp", [5, 3])
def test_an_image_that_comes_twice_or_late_takes_the_place_of_those_not_older_and_of_no_other(stamp):
    assert stamps_of(remember([1, 2, 5, stamp, 6])) == [1, 2, stamp, 6]


def test_repeated_and_disordered_stamps_cost_no_more_than_the_frames_they_fall_on():
    stamps = [second * NANOSECONDS // 10 for second in (0, 1, 1, 2, 3, 2, 4, 5, 5, 5, 6)]
    assert stamps_of(remember(stamps, capacity=9)) == sorted({*stamps} - {stamps[4]})


@given(st.lists(st.integers(0, 3 * NANOSECONDS), min_size=1, max_size=40), st.integers(1, 6))
def test_whatever_the_stamps_the_last_image_is_the_newest_and_they_ascend(stamps, capacity):
    kept = stamps_of(remember(stamps, capacity, interval_s=0.1))
    assert kept[-1] == stamps[-1] and kept == sorted(set(kept)) and len(kept) <= capacity


@pytest.mark.parametrize(("back_ns", "kept"), [(NANOSECONDS, 2), (NANOSECONDS + 1, 1)])
def test_a_stamp_more_than_a_second_back_starts_over(back_ns, kept):
    assert len(remember([1, 3 * NANOSECONDS, 3 * NANOSECONDS - back_ns])) == kept


def test_a_camera_that_does_not_stamp_is_remembered_by_its_newest_image():
    memory = remember([0, 0, 0])
    assert stamps_of(memory) == [0] and memory.newest is memory.at(0)


def test_the_second_of_two_alike_stays_if_the_first_was_pointed_at():
    memory = FrameMemory(4, 1.0)
    for place, stamp in enumerate((1, 2, 3, 3, 4, 5)):
        seen = memory.arrived(Frame(PIXELS, stamp))
        seen.pointed_at = place == 2
        memory.add(seen)
    assert stamps_of(memory) == [1, 3, 5]


def test_the_nearest_frame_within_the_interval_is_found():
    memory = remember([100, 200, 300], interval_s=4e-8)
    assert memory.at(190).frame.stamp_ns == 200
    assert memory.at(0).frame.stamp_ns == memory.at(330).frame.stamp_ns == 300


def test_however_far_apart_frames_are_remembered_one_of_another_time_is_not_drawn_on():
    memory = remember([10 * NANOSECONDS, 20 * NANOSECONDS, 30 * NANOSECONDS], interval_s=10.0)
    assert memory.at(20 * NANOSECONDS + NEAR_NS).frame.stamp_ns == 20 * NANOSECONDS
    for stamp in (22 * NANOSECONDS, 35 * NANOSECONDS):
        with pytest.raises(NoFrame):
            memory.at(stamp)


@pytest.mark.parametrize(
    ("stamp", "said"),
    [
        (20, "the oldest is of 100 ns; send the region sooner"),
        (250, "those next to it are of 200 and 300 ns, the images between were not tracked"),
        (350, "the newest that was tracked is of 300 ns; the tracker is behind the camera"),
    ],
)
def test_a_stamp_near_no_frame_is_refused_with_what_would_help(stamp, said):
    memory = remember([100, 200, 300], interval_s=4e-8)
    with pytest.raises(NoFrame, match=f"near stamp {stamp} ns: {said}"):
        memory.at(stamp)


def test_a_frame_that_is_still_being_tracked_can_be_drawn_on_but_shows_nothing_yet():
    memory = remember([100, 200])
    arrived = memory.arrived(Frame(PIXELS, 300))
    assert memory.at(300) is memory.at(0) is arrived
    assert stamps_of(memory) == [100, 200]
    memory.add(arrived)
    assert memory.at(300) is arrived and stamps_of(memory) == [100, 200, 300]


def test_the_first_frame_can_be_drawn_on_while_it_is_tracked():
    memory = FrameMemory(4, 0)
    arrived = memory.arrived(Frame(PIXELS, 100))
    assert memory.at(100) is arrived
    with pytest.raises(NoFrame, match="the first image, of 100 ns, is still being tracked"):
        memory.at(50)


def test_a_frame_shows_only_what_was_tracked_in_it():
    memory = FrameMemory(4, 0)
    box, mask = Box(0, 0, 2, 2), np.zeros((8, 8), bool)
    mask[:2, :2] = True
    for stamp, state in ((1, TrackState.TRACKED), (2, TrackState.OCCLUDED), (3, TrackState.TRACKED)):
        seen = memory.arrived(Frame(PIXELS, stamp))
        memory.add(seen)
        seen.record([Track(7, state, 1.0, mask, box if state is TrackState.TRACKED else None, 4)])
    assert [seen.frame.stamp_ns for seen in memory.showing((7,))] == [1, 3]
    memory.forget(7)
    assert memory.showing((7,)) == []


@given(
    st.lists(st.integers(1, 10**9), min_size=1, max_size=12),
    st.integers(0, 15),
    st.floats(0, 20, allow_nan=False),
)
def test_spread_gives_distinct_ordered_frames_within_the_history(gaps, count, history_s):
    memory = remember(list(np.cumsum(gaps)), capacity=12)
    frames = memory.showing(())
    now = frames[-1].frame.stamp_ns
    chosen = [seen.frame.stamp_ns for seen in spread(frames, count, history_s, now)]
    assert chosen == sorted(set(chosen)) and 1 <= len(chosen) <= max(count, 1)
    assert chosen[-1] == now
    if history_s > 0:
        assert all(now - stamp <= history_s * 1e9 + 1 for stamp in chosen)
