# SPDX-License-Identifier: Apache-2.0
"""Frames in which an object is absent are not remembered: its memory is as if they had not been."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tracking_scene import HEIGHT, WIDTH, moving_frames

from pixelrefer_ros.tracking import StateRules, StreamTracker
from pixelrefer_ros.tracking.steps import Decoded
from pixelrefer_ros.tracking.tiny import tiny_sam2
from pixelrefer_ros.types import Region, TrackState

torch.set_num_threads(1)

MODEL = tiny_sam2(seed=3, image_size=64)
RULES = StateRules(min_area_px=1, max_area_fraction=1.0, apart=False)
FRAMES = moving_frames(8)
THERE, GONE = 4.0, -4.0


def region(object_id: int) -> Region:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[10:40, 20 * object_id : 20 * object_id + 15] = True
    return Region(mask=mask, object_id=object_id)


def shown(
    monkeypatch: pytest.MonkeyPatch, rules: StateRules, scores: dict[int, tuple[float, ...]]
) -> StreamTracker:
    """A tracker whose decoder says, frame by frame, how surely each object is there."""
    count = len(next(iter(scores.values())))
    tracker = StreamTracker(MODEL, states=rules)
    tracker.prompt(FRAMES[0], [region(number) for number in range(1, count + 1)])
    tracker.track(FRAMES[0])
    width = MODEL.config.mask_decoder_config.hidden_size
    for index, said in scores.items():
        logits = torch.full((count, 16, 16), -THERE)
        logits[torch.tensor(said) > 0, :, index : index + 4] = THERE
        pointers = torch.full((count, width), float(index))
        decoded = Decoded(logits, torch.tensor(said), pointers)
        monkeypatch.setattr(tracker._sam2, "propagate", lambda *_, decoded=decoded: decoded)
        tracker.track(FRAMES[index])
    return tracker


def remembered(tracker: StreamTracker, row: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    bank = tracker._session.bank
    recall = bank.recall([row], [1], [0])
    return recall.memory, recall.pointers, bank.since_prompt(row)


def test_memory_is_as_if_frames_without_the_object_had_not_been(monkeypatch):
    tracker = shown(monkeypatch, RULES, {1: (THERE,), 2: (GONE,), 3: (GONE,), 4: (THERE,)})
    without = shown(monkeypatch, RULES, {1: (THERE,), 4: (THERE,)})
    for one, other in zip(remembered(tracker, 0), remembered(without, 0), strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    assert len(tracker._session.followed(1).remembered) == 2, "a correction counts remembered frames back"


def test_it_is_occluded_all_the_same_and_others_remember_the_frame(monkeypatch):
    tracker = shown(monkeypatch, RULES, {1: (THERE, THERE), 2: (GONE, THERE)})
    gone, there = tracker.track(FRAMES[2])
    assert (gone.state, there.state) == (TrackState.OCCLUDED, TrackState.TRACKED)
    assert [remembered(tracker, row)[2] for row in range(2)] == [1, 2]
    alone = shown(monkeypatch, RULES, {1: (THERE, THERE), 2: (THERE, THERE)})
    for one, other in zip(remembered(tracker, 1), remembered(alone, 1), strict=True):
        # Encoded as a batch of one instead of two: float32 sums in another order, kept in bfloat16.
        torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other), rtol=1e-2, atol=1e-3)


def test_with_the_rule_of_sam2_itself_every_frame_is_remembered(monkeypatch):
    rules = replace(RULES, remembers_absence=True)
    tracker = shown(monkeypatch, rules, {1: (THERE,), 2: (GONE,), 3: (GONE,)})
    assert remembered(tracker, 0)[2] == 3


def test_an_object_that_is_never_there_again_remembers_its_prompt_alone(monkeypatch):
    tracker = shown(monkeypatch, RULES, {index: (GONE,) for index in range(1, 8)})
    assert remembered(tracker, 0)[2] == 0
    assert tracker.track(FRAMES[7])[0].state == TrackState.OCCLUDED


def test_a_look_alike_of_a_lost_object_leaves_no_trace_and_a_sure_match_is_remembered(monkeypatch):
    rules = replace(RULES, lost_after_frames=1, find_again_score=0.99)
    unsure, sure = THERE, 6.0  # probabilities of 0.982 and 0.998
    tracker = shown(monkeypatch, rules, {1: (GONE,), 2: (unsure,)})
    (track,) = tracker.track(FRAMES[2])
    assert (track.state, track.area_px, track.box) == (TrackState.LOST, 0, None)
    assert track.score == pytest.approx(0.982, abs=1e-3), "how likely it was is told"
    assert remembered(tracker, 0)[2] == 0
    found = shown(monkeypatch, rules, {1: (GONE,), 2: (unsure,), 3: (sure,)})
    assert found.track(FRAMES[3])[0].state == TrackState.TRACKED
    assert remembered(found, 0)[2] == 1
