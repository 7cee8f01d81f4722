# SPDX-License-Identifier: Apache-2.0
"""Objects that are followed rule each other out: one does not become another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tracking_scene import HEIGHT, WIDTH, moving_frames

from pixelrefer_ros.tracking import StateRules, StreamTracker
from pixelrefer_ros.tracking.apart import NOT_THERE, keep_apart
from pixelrefer_ros.tracking.steps import Decoded
from pixelrefer_ros.tracking.tiny import tiny_sam2
from pixelrefer_ros.types import Region, Track, TrackState

torch.set_num_threads(1)

MODEL = tiny_sam2(seed=3, image_size=64)
RULES = StateRules(min_area_px=1, max_area_fraction=1.0)
FRAMES = moving_frames(8)
SURE = 4.0


def columns(first: int, last: int, *, loud: float = SURE, side: int = 16) -> torch.Tensor:
    """A mask of (16, 16) logits that covers some columns."""
    logits = torch.full((side, side), -loud)
    logits[:, first:last] = loud
    return logits


def alone(count: int) -> torch.Tensor:
    return torch.zeros(count, count, dtype=torch.bool)


@st.composite
def frames_of_objects(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    count = draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = torch.from_numpy(rng.normal(-0.5, 3, (count, 6, 6)).astype(np.float32))
    held = torch.from_numpy(rng.random((count, 6, 6)) < 0.3)
    pairs = torch.from_numpy(rng.random((count, count)) < 0.2)
    return logits, held, pairs | pairs.T


@given(frames_of_objects())
@settings(max_examples=60, deadline=None)
def test_no_pixel_is_two_objects_and_none_is_given_to_who_did_not_claim_it(drawn):
    logits, held, together = drawn
    found, taken = keep_apart(logits, held, together)
    has, claimed = found > 0, logits > 0
    assert not (has & ~claimed).any()
    for one in range(len(logits)):
        assert not (taken[one] and has[one].any())
        for other in range(one):
            assert together[one, other] or not (has[one] & has[other]).any()
    contested = claimed & (claimed.sum(dim=0) > 1)
    assert torch.equal(found[~contested & ~taken[:, None, None]], logits[~contested & ~taken[:, None, None]])
    assert (found[claimed & ~has] == NOT_THERE).all()


@given(frames_of_objects())
@settings(max_examples=30, deadline=None)
def test_objects_that_may_all_overlap_stay_as_they_are(drawn):
    logits, held, _ = drawn
    found, taken = keep_apart(logits, held, torch.ones(len(logits), len(logits), dtype=torch.bool))
    assert torch.equal(found, logits)
    assert not taken.any()


def test_who_held_a_pixel_keeps_it_however_loudly_another_claims_it():
    logits = torch.stack([columns(0, 8), columns(4, 16, loud=9.0)])
    held = torch.stack([columns(0, 8), columns(9, 16)]) > 0
    found, taken = keep_apart(logits, held, alone(2))
    assert torch.equal(found > 0, torch.stack([columns(0, 8), columns(8, 16)]) > 0)
    assert not taken.any()


def test_one_that_has_jumped_gives_way_to_one_that_moved_far_but_on():
    logits = torch.stack([columns(7, 13, loud=9.0), columns(7, 13)])
    held = torch.stack([columns(0, 4), columns(11, 16)]) > 0
    found, taken = keep_apart(logits, held, alone(2))
    assert taken.tolist() == [True, False]
    assert torch.equal(found[1], logits[1])


def test_what_nobody_held_goes_to_the_surest():
    logits = torch.stack([columns(0, 10), columns(6, 16, loud=5.0)])
    held = torch.stack([columns(0, 4), columns(12, 16)]) > 0
    found, _ = keep_apart(logits, held, alone(2))
    assert torch.equal(found > 0, torch.stack([columns(0, 6), columns(6, 16)]) > 0)


def test_an_object_found_in_anothers_place_has_no_pixel_and_takes_none():
    # Of the first one's mask a sliver is nobody else's, and a part of the other's new mask nobody held.
    logits = torch.stack([columns(7, 15, loud=9.0), columns(8, 16)])
    held = torch.stack([columns(0, 4), columns(8, 14)]) > 0
    found, taken = keep_apart(logits, held, alone(2))
    assert taken.tolist() == [True, False]
    assert not (found[0] > 0).any()
    assert torch.equal(found[1], logits[1])


def drawn(object_id: int, first: int, last: int) -> Region:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[:, first * WIDTH // 16 : last * WIDTH // 16] = True
    return Region(mask=mask, object_id=object_id)


def following(rules: StateRules, *regions: Region) -> StreamTracker:
    """A tracker whose decoder finds what `finds` says, so that it can be mistaken at will."""
    tracker = StreamTracker(MODEL, states=rules)
    tracker.prompt(FRAMES[0], regions)
    tracker.track(FRAMES[0])
    return tracker


def finds(
    monkeypatch: pytest.MonkeyPatch, tracker: StreamTracker, index: int, *masks: torch.Tensor
) -> list[Track]:
    pointers = torch.arange(len(masks) * MODEL.config.mask_decoder_config.hidden_size).float()
    decoded = Decoded(
        torch.stack(masks), torch.full((len(masks),), SURE), index + pointers.view(len(masks), -1)
    )
    monkeypatch.setattr(tracker._sam2, "propagate", lambda conditioned, features: decoded)
    return tracker.track(FRAMES[index])


def test_an_object_that_is_taken_for_another_is_occluded_until_it_is_found_where_no_other_is(monkeypatch):
    tracker = following(RULES, drawn(1, 0, 4), drawn(2, 8, 12))
    mine, theirs = columns(1, 5), columns(8, 12)
    assert [t.state for t in finds(monkeypatch, tracker, 1, mine, theirs)] == [TrackState.TRACKED] * 2
    pointer = tracker._session.followed(1).pointer
    absent: list[list[bool]] = []
    remember = tracker._sam2.remember
    monkeypatch.setattr(
        tracker._sam2,
        "remember",
        lambda features, mask, present: (
            absent.append((~present).tolist()),
            remember(features, mask, present),
        )[1],
    )
    lost, other = finds(monkeypatch, tracker, 2, columns(8, 12, loud=9.0), theirs)
    assert (lost.state, lost.area_px, other.state) == (TrackState.OCCLUDED, 0, TrackState.TRACKED)
    assert lost.score < 0.5
    assert absent == [[False]], "only the one that was seen remembers the frame"
    assert torch.equal(tracker._session.followed(1).pointer, pointer), "and what it looked like before"
    found, other = finds(monkeypatch, tracker, 3, columns(13, 16), theirs)
    assert (found.state, other.state) == (TrackState.TRACKED, TrackState.TRACKED)
    assert not (found.mask & other.mask).any()


def test_without_the_rule_each_object_is_followed_by_itself(monkeypatch):
    tracker = following(replace(RULES, apart=False), drawn(1, 0, 4), drawn(2, 8, 12))
    tracks = finds(monkeypatch, tracker, 1, columns(8, 12), columns(8, 12))
    assert np.array_equal(tracks[0].mask, tracks[1].mask)


def test_a_part_that_was_pointed_at_within_a_whole_stays_a_part_of_it(monkeypatch):
    tracker = following(RULES, drawn(1, 0, 8), drawn(2, 2, 5))
    whole, part = finds(monkeypatch, tracker, 1, columns(1, 9), columns(3, 6))
    assert (whole.mask & part.mask).sum() == part.area_px > 0
    # Pointed at anew where the other is not, they are different things from then on.
    tracker.prompt(FRAMES[1], [drawn(2, 12, 15)])
    tracker.track(FRAMES[1])
    whole, part = finds(monkeypatch, tracker, 2, columns(1, 9), columns(3, 6))
    assert (whole.state, part.state) == (TrackState.TRACKED, TrackState.OCCLUDED)


@pytest.mark.parametrize("on_it", [True, False], ids=["a part", "another thing"])
def test_what_is_drawn_on_an_older_frame_is_a_part_if_it_is_one_in_the_first_frame_that_shows_both(
    on_it: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = following(RULES, drawn(1, 0, 4))
    for index in (1, 2):
        finds(monkeypatch, tracker, index, columns(4 * index, 4 * index + 4))
    tracker.prompt(FRAMES[0], [drawn(2, 1, 3)])  # where the other one was, but is no more
    _, second = finds(monkeypatch, tracker, 3, columns(9, 13), columns(10, 12) if on_it else columns(3, 5))
    assert second.state == TrackState.TRACKED
    first, second = finds(monkeypatch, tracker, 4, columns(10, 14), columns(11, 13))
    assert (first.state, second.state) == (
        TrackState.TRACKED,
        TrackState.TRACKED if on_it else TrackState.OCCLUDED,
    )
    assert (first.mask & second.mask).any() == on_it


def test_a_part_that_is_hidden_while_the_whole_is_corrected_stays_a_part_of_it(monkeypatch):
    tracker = following(RULES, drawn(1, 0, 8), drawn(2, 2, 5))
    _, part = finds(monkeypatch, tracker, 1, columns(0, 8), columns(0, 0))
    assert part.state == TrackState.OCCLUDED
    tracker.prompt(FRAMES[1], [drawn(1, 0, 9)])
    whole, part = finds(monkeypatch, tracker, 2, columns(1, 10), columns(3, 6))
    assert (whole.mask & part.mask).sum() == part.area_px > 0


def test_what_is_drawn_while_another_is_hidden_is_no_part_of_it(monkeypatch):
    tracker = following(RULES, drawn(1, 0, 4))
    finds(monkeypatch, tracker, 1, columns(0, 0))
    tracker.prompt(FRAMES[0], [drawn(2, 8, 12)])
    mistaken, second = finds(monkeypatch, tracker, 2, columns(8, 12, loud=9.0), columns(8, 12))
    assert (mistaken.state, second.state) == (TrackState.OCCLUDED, TrackState.TRACKED)


def test_nothing_is_kept_of_parts_that_are_no_longer_followed():
    tracker = following(RULES, drawn(1, 0, 8))
    for object_id in range(2, 6):
        tracker.prompt(FRAMES[0], [drawn(object_id, 2, 5)])
        assert tracker._session.followed(1).overlaps == {object_id}
        tracker.remove(object_id)
    assert not tracker._session.followed(1).overlaps
    tracker.track(FRAMES[1])
    tracker.prompt(FRAMES[0], [drawn(6, 2, 5)])
    assert tracker._session.followed(1).undecided == {6}
    tracker.remove(6)
    assert not tracker._session.followed(1).undecided


def test_an_object_that_marks_the_whole_picture_takes_nobodys_pixels_and_is_occluded(monkeypatch):
    tracker = following(replace(RULES, max_area_fraction=0.95), drawn(1, 0, 4), drawn(2, 8, 12))
    for index in range(1, 4):  # without the pixels that the other one keeps, it is no longer the whole
        lost, moving = finds(
            monkeypatch, tracker, index, columns(0, 16, loud=9.0), columns(8 + index, 12 + index)
        )
        assert (lost.state, lost.area_px) == (TrackState.OCCLUDED, 0)
        assert (moving.state, moving.area_px) == (TrackState.TRACKED, HEIGHT * WIDTH // 4)
    assert [tracker._session.bank.since_prompt(row) for row in range(2)] == [0, 3]
    back, _ = finds(monkeypatch, tracker, 4, columns(1, 5), columns(11, 15))
    assert back.state == TrackState.TRACKED
