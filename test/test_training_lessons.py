# SPDX-License-Identifier: Apache-2.0
"""Lessons decide many things in one answer: each once, and each of them true."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from micro_language import MICRO

from pixelrefer_ros.training.checkpoints import new_checkpoint, new_network, tokenizer_of
from pixelrefer_ros.training.data import prompt_row, turn_of
from pixelrefer_ros.training.text_rows import IGNORED
from pixelrefer_ros.training.world import (
    COLORS,
    KINDS,
    LESSONS,
    SEED_RANGES,
    SHAPES,
    SIZES,
    SURFACES,
    Renderer,
    SceneSettings,
    Sight,
    cast_scene,
    scene_examples,
)
from pixelrefer_ros.training.world.questions.about_one import PLACE_PHRASES
from pixelrefer_ros.training.world.questions.over_time import MOTION_PHRASES

SMALL = SceneSettings(frames=20, size=(320, 240), objects=(3, 6))
seeds = st.integers(0, SEED_RANGES["val"].stop - 1)
few = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))


def lessons(seed: int, kind: str):
    """Examples, and what is to be said to what is heard in them."""
    for example in scene_examples(seed, 6, settings=SMALL, kinds=(kind,)):
        yield example, {heard.removeprefix(" "): said.removeprefix(" ") for heard, said in example.lesson}


def combination(example, place: int = 0):
    return cast_scene(example.scene_seed, SMALL).objects[example.objects[place]].combination


NAMES = ["first", "second", "third"]


def value(example, place: int, word: str) -> str:
    return getattr(combination(example, place), {"pattern": "surface"}.get(word, word))


def named(who: str) -> str:
    return re.sub(r"^an? ", "", who.lower().rstrip("."))


@pytest.mark.parametrize("kind", sorted(LESSONS))
def test_a_lesson_decides_several_things_once_and_its_answer_shows_them(kind):
    found = [lesson for seed in range(12) for lesson in lessons(seed, kind)]
    assert found
    for example, decided in found:
        assert len(decided) == len(example.lesson) >= 2
        assert example.answer == "; ".join(f"{heard}: {said}" for heard, said in decided.items())
        assert example.question.count("<region>") == len(example.objects)


@pytest.mark.parametrize("kind", ["checked", "compared"])
def test_yes_and_no_are_both_said_often(kind):
    said = [word for seed in range(20) for _, decided in lessons(seed, kind) for word in decided.values()]
    said = [words.lower().split()[-1] for words in said]
    yes, no = said.count("yes"), said.count("no")
    assert min(yes, no) > 0.2 * (yes + no)


@few
@given(seeds)
def test_a_word_is_checked_with_yes_where_the_object_has_it(seed):
    for example, decided in lessons(seed, "checked"):
        true = combination(example)
        for heard, said in decided.items():
            if named(heard) in {*COLORS, *SURFACES, *SHAPES}:
                seen, yes = said.split(": ")
                assert seen in true
                assert yes == ("yes" if named(heard) == seen else "no")


def test_a_place_that_is_a_part_of_the_true_one_is_never_denied():
    names = {phrase: name for name, phrase in PLACE_PHRASES.items()}
    said = [
        (names[heard], *said.split(": "))
        for seed in range(40)
        for _, decided in lessons(seed, "checked")
        for heard, said in decided.items()
        if heard in names
    ]
    assert len({asked for asked, _, _ in said}) == 9
    for asked, true, yes in said:
        assert yes == ("yes" if asked == true else "no")
        assert asked == true or asked not in true.split(), "what is in the bottom right is on the right, too"


@few
@given(seeds)
def test_the_letter_chosen_is_that_of_the_objects_own_attribute(seed):
    for example, decided in lessons(seed, "chosen"):
        for heard, said in decided.items():
            word, letter = re.fullmatch(r"(\w+) \(([ABC])\)", said).groups()
            slot = heard.split()[0]
            assert f"({letter}) {word}" in heard
            assert slot == "size" or word == getattr(combination(example), slot)


@few
@given(seeds)
def test_what_two_are_is_said_before_whether_it_is_the_same(seed):
    for example in (example for example, _ in lessons(seed, "compared")):
        for heard, said in example.lesson:
            names, same, word = heard.strip().partition(" same ")
            if same:
                one, other = (value(example, NAMES.index(name), word) for name in names.split(" and "))
                assert said == f" {one} and {other}: {'yes' if one == other else 'no'}"


@few
@given(seeds)
def test_the_one_that_is_further_is_named_and_is_the_first_or_not(seed):
    pattern = r"(\w+) (to the left of|to the right of|higher than|lower than) the (\w+)"
    ways = {"left": (0, 1), "right": (0, -1), "higher": (1, 1), "lower": (1, -1)}
    for example, decided in lessons(seed, "compared"):
        sight = Sight(Renderer(cast_scene(example.scene_seed, SMALL)))
        centers = [sight.center(number, example.frame_indices[0]) for number in example.objects]
        for heard, said in decided.items():
            if asked := re.fullmatch(pattern, heard):
                one, other = NAMES.index(asked[1]), NAMES.index(asked[3])
                axis, sign = next(way for word, way in ways.items() if word in asked[2])
                first = sign * centers[one][axis] < sign * centers[other][axis]
                its = combination(example, one if first else other)
                assert said == f"{its.color} {its.shape}: {'yes' if first else 'no'}"


@few
@given(seeds)
def test_the_first_is_told_from_the_second_by_what_each_of_them_is(seed):
    for example, decided in lessons(seed, "ordered"):
        sight = Sight(Renderer(cast_scene(example.scene_seed, SMALL)))
        own, at = list(enumerate(example.objects)), example.frame_indices[0]
        for heard, said in decided.items():
            asked, _, whose = heard.rpartition(" of the ")
            if whose in NAMES:
                assert said == value(example, NAMES.index(whose), asked)
                continue
            word = whose.removesuffix(" one").removeprefix("one ")
            shown = [(*combination(example, n), sight.size(o, at), sight.place(o, at)) for n, o in own]
            wanted = word if word in {*COLORS, *SURFACES, *SHAPES, *SIZES} else re.sub(r"^\w+ the ", "", word)
            owners = [n for n, words in enumerate(shown) if wanted in words]
            assert [said] == [value(example, n, asked) for n in owners]


@few
@given(seeds)
def test_the_neighbours_named_are_in_the_scene_and_those_agreed_to_are_the_ones_named(seed):
    for example, decided in lessons(seed, "around"):
        there = {f"{o.combination.color} {o.combination.shape}" for o in cast_scene(seed, SMALL).objects}
        sides = {heard: named(said) for heard, said in decided.items() if ": " not in said}
        assert set(sides.values()) <= {*there, "nothing", "gray board"}
        assert set(sides.values()) != {"nothing"}
        for heard, said in decided.items():
            if heard not in sides:
                words = named(heard).split(" ", 2)
                there_is = sides[words[2]]
                assert said == f"{there_is}: {'yes' if there_is == ' '.join(words[:2]) else 'no'}"
        assert example.objects[0] < len(cast_scene(seed, SMALL).objects)


@few
@given(seeds)
def test_at_most_one_motion_is_seen_and_what_is_always_visible_is_never_hidden(seed):
    sight = Sight(Renderer(cast_scene(seed, SMALL)))
    motions = {"staying still", "growing", "shrinking", "rotating"}
    for example, decided in lessons(seed, "watched"):
        of_motion = [
            said for heard, said in decided.items() if heard in motions or heard.startswith("moving")
        ]
        assert sum(said.endswith(": yes") for said in of_motion) <= 1
        assert all(said.split(": ")[0] == decided["what it does"] for said in of_motion)
        moves = decided.get("what it does") in MOTION_PHRASES.values()
        assert moves == bool(of_motion)
        if "hidden" in decided:
            assert {decided["hidden"], decided["always visible"]} == {"yes", "no"}
            assert (decided["when hidden"] == "never") == (decided["hidden"] == "no")
        if decided.get("hidden") == "no":
            first, last = example.frame_indices[0], example.frame_indices[-1]
            assert sight.seen(example.objects[0])[first : last + 1].all()


@few
@given(seeds)
def test_the_one_long_step_between_the_times_given_is_when_the_object_was_hidden(seed):
    for example, decided in lessons(seed, "timed"):
        times = [f"{time:.1f} s" for time in example.times_s]
        steps = dict(zip(times, np.diff(example.frame_indices).tolist(), strict=False))
        long = [time for time, step in steps.items() if step >= 2 * np.median(list(steps.values()))]
        assert len(long) <= 1
        between = " to ".join((long[0], times[times.index(long[0]) + 1])) if long else ""
        assert decided["long step"] == (between or "none")
        assert decided["when hidden"] == (between or "never")
        for time, following in pairwise(times):
            step = "long" if time in long else "short"
            assert decided[f"after {time}"] == f"{following}, {step}"
            assert decided[f"step after {time}"] == step
        assert len(decided) == 2 * len(times)


@few
@given(seeds)
def test_an_object_is_higher_larger_and_further_left_at_the_end_where_it_is(seed):
    scene = cast_scene(seed, SMALL)
    for example, decided in lessons(seed, "ends"):
        poses = {
            f"{example.times_s[end]:.1f} s": scene.pose(example.objects[0], example.frame_indices[end])
            for end in (0, -1)
        }
        least = {
            "higher at": lambda pose: pose.y,
            "lower at": lambda pose: -pose.y,
            "further left at": lambda pose: pose.x,
            "further right at": lambda pose: -pose.x,
            "smaller at": lambda pose: pose.scale,
            "larger at": lambda pose: -pose.scale,
        }
        for heard, said in decided.items():
            measured = {time: least[heard](pose) for time, pose in poses.items()}
            if said == "neither":
                # Far below what counts as moved, 0.12 of the short side, and as changed, a factor of 1.3.
                most = 0.06 if heard in ("smaller at", "larger at") else 0.02 * scene.short_side
                assert abs(np.subtract(*measured.values())) < most
            else:
                assert said == min(measured, key=measured.get)


def test_about_as_many_of_the_times_have_a_gap_as_have_none():
    hidden = [
        decided["when hidden"] != "never" for seed in range(30) for _, decided in lessons(seed, "timed")
    ]
    assert 0.3 < np.mean(hidden) < 0.7


def test_only_what_is_said_is_learned(tmp_path):
    new_checkpoint(tmp_path, MICRO, seed=0)
    network = new_network(tmp_path, seed=0)
    tokenizer = tokenizer_of(tmp_path)
    example = next(scene_examples(0, 1, settings=SMALL, kinds=("checked",)))
    row = prompt_row(turn_of(example), tokenizer, network.config)
    learned = [token for token in row.labels if token != IGNORED]
    said = "".join(said for _, said in example.lesson)
    assert b"".join(tokenizer.token_bytes(token) for token in learned).decode() == said
    assert all(label in (IGNORED, token) for token, label in zip(row.ids, row.labels, strict=True))


def test_no_lesson_is_among_the_kinds_that_are_scored():
    assert not LESSONS.keys() & KINDS.keys()
