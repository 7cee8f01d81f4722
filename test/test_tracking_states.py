# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelrefer_ros.errors import ParameterError
from pixelrefer_ros.tracking import StateRules
from pixelrefer_ros.tracking.frame_order import FrameOrder
from pixelrefer_ros.tracking.states import Visibility

SECOND = 1_000_000_000


def states(seen: list[bool], rules: StateRules, *, period_s: float = 0.1, score: float = 0.8) -> list[str]:
    visibility = Visibility.prompted(True, 0)
    stamps = [round((k + 1) * period_s * SECOND) for k in range(len(seen))]
    return [visibility.observed(v, score, t, rules).name[0] for v, t in zip(seen, stamps, strict=True)]


def test_object_is_occluded_then_lost_after_the_given_frames() -> None:
    seen = [True, False, False, False, False]
    assert states(seen, StateRules(lost_after_frames=3)) == ["T", "O", "O", "L", "L"]


def test_object_seen_again_in_time_is_tracked_and_counts_anew() -> None:
    seen = [False, False, True, False, False, False]
    assert states(seen, StateRules(lost_after_frames=3)) == ["O", "O", "T", "O", "O", "L"]


def test_object_is_lost_after_the_given_seconds_whatever_the_frame_rate() -> None:
    slow = StateRules(lost_after_frames=1000, lost_after_s=1.0)
    assert states([False] * 3, slow, period_s=0.4) == ["O", "O", "L"]
    assert states([False] * 3, slow, period_s=1.0) == ["L", "L", "L"]


def test_seconds_unseen_count_from_there_when_a_clock_is_set_back() -> None:
    rules = StateRules(lost_after_frames=1000, lost_after_s=1.5)
    visibility = Visibility.prompted(True, 100 * SECOND)
    stamps = [101 * SECOND, 0, SECOND, 2 * SECOND]
    assert [visibility.observed(False, 0.0, stamp, rules).name[0] for stamp in stamps] == ["O", "O", "O", "L"]


def test_lost_object_stays_lost_unless_it_is_searched_for() -> None:
    seen = [False, True, True]
    assert states(seen, StateRules(lost_after_frames=1)) == ["L", "L", "L"]
    assert states(seen, StateRules(lost_after_frames=1, find_again_score=0.9)) == ["L", "L", "L"]
    assert states(seen, StateRules(lost_after_frames=1, find_again_score=0.8)) == ["L", "T", "T"]


@given(st.floats(0, 1), st.integers(0, 10_000))
def test_mask_that_is_too_small_too_large_or_too_unlikely_is_not_visible(score: float, area: int) -> None:
    rules = StateRules(score_threshold=0.6, min_area_px=10, max_area_fraction=0.5)
    assert rules.visible(score, area, 10_000) == (score >= 0.6 and 10 <= area <= 5_000)


@pytest.mark.parametrize(
    "setting",
    [
        {"score_threshold": 0.4},
        {"min_area_px": -1},
        {"max_area_fraction": 0.0},
        {"lost_after_frames": 0},
        {"lost_after_s": 0.0},
        {"find_again_score": 1.5},
        {"find_again_score": 0.2},
    ],
)
def test_rule_outside_its_bounds_is_named(setting: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match=next(iter(setting))):
        StateRules(**setting)  # type: ignore[arg-type]


def test_prompt_frames_are_placed_among_the_processed_ones() -> None:
    order = FrameOrder()
    assert order.place(5) == 0  # the first frame, about to be processed
    assert [order.process(stamp) for stamp in (10, 20, 30)] == [0, 1, 2]
    assert order.place(30) == 2
    assert order.place(10) == 0
    assert order.place(25) == 1  # skipped: the processed frame before it
    assert order.place(5) == -1  # before everything
    assert order.place(40) == 3  # not yet processed


def test_clock_set_back_starts_a_new_order_and_numbers_go_on() -> None:
    order = FrameOrder()
    for stamp in (100, 200, 300):
        order.process(stamp)
    assert order.process(10) == 3
    assert order.process(20) == 4
    assert order.place(10) == 3
