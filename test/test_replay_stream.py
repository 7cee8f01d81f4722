# SPDX-License-Identifier: Apache-2.0
"""What a replay takes of a recording: each image once, in the order in which they were taken."""

from __future__ import annotations

import pytest
from perception_parts import PERIOD_NS, frame

from pixelrefer_ros.errors import InputFileError
from pixelrefer_ros.offline.stream import in_order, until_break

SECOND = 10  # frames at 10 Hz


def in_order_of(taken: list[int]) -> tuple[list[int], dict[int, str], dict[int, float]]:
    """Frames by when they were taken, as they were recorded: those that are left, skipped and set back."""
    skipped: dict[int, str] = {}
    set_back: dict[int, float] = {}
    recorded = enumerate(map(frame, taken))
    left = [index for index, _ in in_order(recorded, skipped.__setitem__, set_back.__setitem__)]
    return left, skipped, set_back


def test_an_image_that_comes_twice_or_late_is_skipped_and_told():
    left, skipped, set_back = in_order_of([0, 1, 1, 2, 4, 3, 5])
    assert left == [0, 1, 3, 4, 6] and not set_back
    assert skipped == {
        2: f"its stamp, {frame(1).stamp_ns} ns, is that of the newest image before it",
        5: f"its stamp, {frame(3).stamp_ns} ns, is {PERIOD_NS / 1e9:g} s behind the newest image before it",
    }


def test_a_second_behind_is_late_and_more_is_a_clock_set_back():
    assert in_order_of([20, 20 - SECOND, 21])[0] == [0, 2]
    assert in_order_of([20, 19 - SECOND, 20 - SECOND]) == ([0, 1, 2], {}, {1: 1.1})


def torn(whole: int):
    """A recording of which so many images can be read."""
    yield from enumerate(map(frame, range(whole)))
    raise InputFileError("torn")


def test_a_break_ends_the_frames_and_is_told():
    told: list[InputFileError] = []
    assert [index for index, _ in until_break(torn(3), told.append)] == [0, 1, 2]
    assert [str(error) for error in told] == ["torn"]


def test_a_recording_with_nothing_before_its_break_is_refused():
    with pytest.raises(InputFileError, match="torn"):
        list(until_break(torn(0), lambda error: None))
