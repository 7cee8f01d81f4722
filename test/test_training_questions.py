# SPDX-License-Identifier: Apache-2.0
"""Questions of the shapes world: every answer is true of the pixels, and can be read back."""

from __future__ import annotations

import math
import re
import subprocess
import sys

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pixelrefer_ros.training.world import (
    KINDS,
    REGION,
    ROWS,
    SEED_RANGES,
    Fact,
    Renderer,
    SceneSettings,
    Sight,
    cast_scene,
    scene_examples,
    scene_seeds,
)

SMALL = SceneSettings(frames=20, size=(320, 240), objects=(2, 6))
seeds = st.integers(0, SEED_RANGES["val"].stop - 1)
few = settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))


def of_kinds(seed: int, *kinds: str, count: int = 4):
    return list(scene_examples(seed, count, settings=SMALL, kinds=kinds))


def value(example, slot: str) -> str:
    return next(fact.value for fact in example.facts if fact.slot == slot)


def combination(example, place: int):
    return cast_scene(example.scene_seed, SMALL).objects[example.objects[place]].combination


def named(example, color: str, shape: str) -> int:
    """The region that is called so, of which there is one."""
    of_all = [combination(example, place) for place in range(len(example.objects))]
    return [(it.color, it.shape) for it in of_all].index((color, shape))


@few
@given(seeds)
def test_every_right_answer_is_read_back_as_its_facts(seed):
    for example in scene_examples(seed, 12, settings=SMALL):
        judged = example.judge(example.answer)
        assert judged.correct, (example.answer, example.facts)
        assert judged.true == judged.stated
        assert judged.recalled == judged.expected > 0


@few
@given(seeds)
def test_the_answers_to_other_questions_of_the_kind_are_wrong_when_their_facts_differ(seed):
    asked = of_kinds(seed, "category", "place", "describe_brief", "motion", count=8)
    for one in asked:
        for other in asked:
            same_slots = {fact.slot for fact in one.facts} == {fact.slot for fact in other.facts}
            if same_slots and not other.facts <= one.facts | one.known:
                assert not one.judge(other.answer).correct


@few
@given(seeds)
def test_there_is_a_visible_mask_for_every_region_in_every_frame(seed):
    for example in scene_examples(seed, 10, settings=SMALL):
        assert example.question.count(REGION) == len(example.masks)
        assert len(example.frames) == len(example.times_s) == len(example.frame_indices)
        for of_region in example.masks:
            assert len(of_region) == len(example.frames)
            assert all(mask.shape == (240, 320) and mask.any() for mask in of_region)
        if len(example.frames) == 1:
            assert example.times_s == (None,)
        else:
            assert example.times_s[0] == 0.0
            assert list(example.times_s) == sorted(example.times_s)


@few
@given(seeds)
def test_the_larger_region_has_more_pixels_by_the_margin(seed):
    for example in of_kinds(seed, "larger"):
        sizes = [int(of_region[0].sum()) for of_region in example.masks]
        asked = named(example, value(example, "color"), value(example, "shape"))
        ratio = sizes[asked] / sizes[1 - asked]
        assert ratio >= 1.3 if "larger" in example.question else ratio <= 1 / 1.3


@few
@given(seeds)
def test_the_furthest_and_the_further_of_two_are_so_by_their_masks(seed):
    ways = {"left": (1, -1), "right": (1, 1), "high": (0, -1), "low": (0, 1)}
    for example in of_kinds(seed, "furthest", "is_further"):
        middles = [np.argwhere(of_region[0]).mean(axis=0) for of_region in example.masks]
        axis, sign = next(way for word, way in ways.items() if word in example.question)
        along = [sign * middle[axis] for middle in middles]
        if example.kind == "furthest":
            best = named(example, value(example, "color"), value(example, "shape"))
        else:
            assert (value(example, "answer") == "yes") == (along[0] > along[1])
            said = {fact.slot: fact.value for fact in example.known}
            best = named(example, said["color"], said["shape"])
        assert along[best] == max(along)


@few
@given(seeds)
def test_whether_two_are_the_same_follows_from_what_the_answer_says_they_are(seed):
    for example in of_kinds(seed, "same"):
        one, other = re.search(r"are (\w+) and (\w+): ", example.answer).groups()
        assert one in combination(example, 0)
        assert other in combination(example, 1)
        assert (value(example, "answer") == "yes") == (one == other)
        turned = {"yes": "no", "no": "yes"}[value(example, "answer")]
        assert not example.judge(re.sub(r"\w+\.$", f"{turned}.", example.answer)).correct


@few
@given(seeds)
def test_just_two_of_three_share_what_they_are_said_to_share(seed):
    for example in of_kinds(seed, "shared"):
        (fact,) = example.facts
        assert [fact.value in combination(example, place) for place in range(3)].count(True) == 2


@few
@given(seeds)
def test_the_place_is_that_of_the_mask_and_not_near_a_line(seed):
    for example in of_kinds(seed, "place"):
        rows, columns = np.nonzero(example.masks[0][0])
        x, y = (columns.mean() + 0.5) / 320, (rows.mean() + 0.5) / 240
        said = value(example, "place")
        across = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
        down = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
        assert said == (f"{down} {across}".strip() or "center")
        assert min(abs(x - 1 / 3), abs(x - 2 / 3), abs(y - 1 / 3), abs(y - 2 / 3)) >= 0.049


@few
@given(seeds)
def test_the_motion_is_that_of_the_mask_where_it_is_wholly_seen(seed):
    steps = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
    calm = SceneSettings(frames=20, size=(320, 240), occlusion="none")
    for example in scene_examples(seed, 4, settings=calm, kinds=("motion",)):
        (first_y, first_x), (last_y, last_x) = (
            np.argwhere(example.masks[0][i]).mean(axis=0) for i in (0, -1)
        )
        moved = np.array((last_x - first_x, last_y - first_y))
        said = value(example, "motion")
        if said in steps:
            assert moved @ np.array(steps[said]) >= 0.11 * 240
        else:
            assert math.hypot(*moved) < 0.02 * 240


@few
@given(seeds)
def test_times_of_hiding_are_times_of_frames_looked_at_with_nothing_between_them(seed):
    hiding = SceneSettings(frames=32, size=(320, 240), objects=(1, 3), occlusion="full")
    for example in scene_examples(seed, 4, settings=hiding, kinds=("hidden_when",)):
        slots = {fact.slot: fact.value for fact in example.facts}
        if "hidden" in slots:
            continue
        shown = [f"{time:.1f}" for time in example.times_s]
        before, after = shown.index(slots["hidden_from"]), shown.index(slots["hidden_to"])
        assert after == before + 1
        sight = Sight(Renderer(cast_scene(seed, hiding)))
        between = sight.pixels[
            example.frame_indices[before] + 1 : example.frame_indices[after], example.objects[0]
        ]
        assert between.min() <= 2


@few
@given(seeds)
def test_what_is_beside_is_on_that_side(seed):
    for example in of_kinds(seed, "beside"):
        if Fact("answer", "nothing") in example.facts:
            continue
        sight = Sight(Renderer(cast_scene(seed, SMALL)))
        index = example.frame_indices[0]
        named = {value(example, "color"), value(example, "shape")}
        x, y = sight.center(example.objects[0], index)
        tests = {"left of": lambda dx, dy: dx < 0, "right of": lambda dx, dy: dx > 0}
        tests |= {"above": lambda dx, dy: dy < 0, "below": lambda dx, dy: dy > 0}
        on_side = next(test for words, test in tests.items() if words in example.question)
        offsets = [
            np.subtract(sight.center(other, index), (x, y))
            for other, spec in enumerate(sight.scene.objects)
            if {spec.combination.color, spec.combination.shape} == named and sight.pixels[index, other] > 2
        ]
        assert any(on_side(*offset) for offset in offsets)


@few
@given(seeds)
def test_attributes_are_asked_only_of_what_can_be_recognised(seed):
    for example in of_kinds(seed, "category", "color", "shape", "surface", count=6):
        sight = Sight(Renderer(cast_scene(seed, SMALL)))
        assert sight.shares[example.frame_indices[0], example.objects[0]] >= 0.7
        assert example.masks[0][0].sum() >= 80
        combination = sight.scene.objects[example.objects[0]].combination
        assert all(getattr(combination, fact.slot) == fact.value for fact in example.facts)


def test_every_kind_is_asked_and_yes_and_no_are_balanced():
    counts: dict[str, int] = dict.fromkeys(KINDS, 0)
    yes: dict[str, int] = dict.fromkeys(KINDS, 0)
    rare = SceneSettings(frames=20, size=(320, 240), objects=(3, 6), occlusion="some")
    for seed in scene_seeds("train", 8, 16):
        for chosen in (SMALL, rare):
            for example in scene_examples(seed, 20, settings=chosen):
                counts[example.kind] += 1
                yes[example.kind] += Fact("answer", "yes") in example.facts
    assert {KINDS[kind].row for kind in KINDS} == set(ROWS)
    assert not [kind for kind, count in counts.items() if count == 0]
    asked = sum(counts[kind] for kind in ("is_attribute", "is_place", "is_motion"))
    said_yes = sum(yes[kind] for kind in ("is_attribute", "is_place", "is_motion"))
    assert asked > 40
    assert 0.25 < said_yes / asked < 0.75  # even odds: three standard deviations of 40 coins


def test_an_example_is_the_same_in_another_process():
    program = (
        "from pixelrefer_ros.training.world import *;"
        "s = SceneSettings(frames=20, size=(320, 240));"
        "print(*[e.digest() for e in scene_examples(4242, 5, settings=s)])"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    here = [e.digest() for e in scene_examples(4242, 5, settings=SceneSettings(frames=20, size=(320, 240)))]
    assert there.stdout.split() == here
    assert len(set(here)) == 5
