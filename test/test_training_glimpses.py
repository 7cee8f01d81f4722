# SPDX-License-Identifier: Apache-2.0
"""Training's videos look at slivers of an object that goes behind another, as a tracker's masks do."""

from __future__ import annotations

import pytest

from pixelrefer_ros.training.world import SceneSettings, scene_drafts, scene_seeds
from pixelrefer_ros.training.world.sight import GLIMPSED_PX, SEEN_SHARE

HIDING = SceneSettings(frames=32, size=(320, 240), objects=(1, 4), occlusion="full")


def hidings(glimpses: float):
    """Questions about when something was hidden."""
    return [
        (sight, draft)
        for seed in scene_seeds("val", 0, 24)
        for sight, _, draft in scene_drafts(
            seed, 4, settings=HIDING, kinds=("hidden_when",), glimpses=glimpses
        )
    ]


def slivers(sight, draft) -> list[int]:
    """The frames looked at in which less is seen than elsewhere has to be."""
    (number,) = draft.objects
    return [index for index in draft.views if sight.shares[index, number] < SEEN_SHARE]


@pytest.fixture(scope="module")
def glimpsed():
    return hidings(1.0)


def test_only_where_it_is_asked_for_slivers_are_looked_at(glimpsed):
    assert not any(slivers(*hiding) for hiding in hidings(0.0))
    assert sum(bool(slivers(*hiding)) for hiding in glimpsed) >= 0.2 * len(glimpsed) > 0


def test_a_sliver_is_what_a_tracker_may_find_and_never_the_first_or_last_that_is_seen(glimpsed):
    for sight, draft in glimpsed:
        few = slivers(sight, draft)
        assert all(sight.pixels[index, draft.objects[0]] >= GLIMPSED_PX for index in few)
        assert not {draft.views[0], draft.views[-1]} & set(few)


def test_with_slivers_too_the_times_of_hiding_are_those_of_frames_with_nothing_between_them(glimpsed):
    checked = 0
    for sight, draft in glimpsed:
        slots = {fact.slot: fact.value for fact in draft.facts}
        if "hidden_from" not in slots or not slivers(sight, draft):
            continue
        start = sight.scene.time_s(draft.views[0])
        shown = [f"{sight.scene.time_s(index) - start:.1f}" for index in draft.views]
        before, after = shown.index(slots["hidden_from"]), shown.index(slots["hidden_to"])
        assert after == before + 1
        between = sight.pixels[draft.views[before] + 1 : draft.views[after], draft.objects[0]]
        assert between.min() <= 2
        checked += 1
    assert checked >= 3


def test_hiding_lies_late_in_some_videos_too_as_for_one_who_asks_what_has_just_happened():
    long = SceneSettings(frames=64, size=(320, 240), objects=(1, 2), occlusion="full")
    late = [
        float(fact.value)
        for seed in scene_seeds("val", 0, 40)
        for sight, _, draft in scene_drafts(seed, 4, settings=long, kinds=("hidden_when",), glimpses=0.6)
        for fact in draft.facts
        if fact.slot == "hidden_from"
    ]
    assert len(late) >= 20
    assert sum(start >= 1.0 for start in late) >= 0.1 * len(late)
    assert sum(start < 0.6 for start in late) >= 0.2 * len(late)
