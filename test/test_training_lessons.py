# SPDX-License-Identifier: Apache-2.0
"""Lessons decide many things in one answer: all that was asked, in its order, and each of them true."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pixelrefer_ros.training.world import (
    COLORS,
    KINDS,
    LESSONS,
    SEED_RANGES,
    SHAPES,
    SURFACES,
    Renderer,
    SceneSettings,
    Sight,
    cast_scene,
    scene_examples,
)

SMALL = SceneSettings(frames=20, size=(320, 240), objects=(3, 6))
seeds = st.integers(0, SEED_RANGES["val"].stop - 1)
few = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))


def lessons(seed: int, kind: str):
    """Examples, what they ask about, and what they say of it by its name."""
    for example in scene_examples(seed, 6, settings=SMALL, kinds=(kind,)):
        names = example.question.rpartition(": ")[2].rstrip("?.").split(", ")
        items = example.answer.removeprefix("Checked: ").rstrip(".").split(", ")
        yield example, names, items


def combination(example, place: int = 0):
    return cast_scene(example.scene_seed, SMALL).objects[example.objects[place]].combination


@pytest.mark.parametrize("kind", sorted(LESSONS))
def test_each_thing_asked_about_is_decided_once_and_in_order(kind):
    found = [lesson for seed in range(12) for lesson in lessons(seed, kind)]
    assert found
    for _, names, items in found:
        plain = [re.sub(r" \(A\).*", "", name) for name in names]
        assert len(items) == len(plain) == len(set(plain)) >= 2
        assert all(item.startswith(f"{name} ") for item, name in zip(items, plain, strict=True))


@few
@given(seeds)
def test_a_word_is_checked_with_yes_where_the_object_has_it(seed):
    for example, _, items in lessons(seed, "checked"):
        words = set(combination(example))
        for item in items:
            word, _, said = item.rpartition(" ")
            if word in {*COLORS, *SURFACES, *SHAPES}:
                assert said == ("yes" if word in words else "no")


@few
@given(seeds)
def test_the_letter_chosen_is_that_of_the_objects_own_attribute(seed):
    for example, names, items in lessons(seed, "chosen"):
        for name, item in zip(names, items, strict=True):
            slot, letter, word = re.fullmatch(r"(\w+) \(([ABC])\) (\w+)", item).groups()
            assert f"({letter}) {word}" in name
            assert slot == "size" or word == getattr(combination(example), slot)


@few
@given(seeds)
def test_two_objects_are_said_to_share_what_they_share(seed):
    for example, _, items in lessons(seed, "compared"):
        said = dict(item.rsplit(" ", 1) for item in items)
        one, other = combination(example, 0), combination(example, 1)
        for slot, word in (("color", "color"), ("shape", "shape"), ("surface", "pattern")):
            if f"same {word}" in said:
                same = getattr(one, slot) == getattr(other, slot)
                assert said[f"same {word}"] == ("yes" if same else "no")
        # Of opposites that were both asked about, one is true.
        for pair in (("higher than", "lower than"), ("to the left of", "to the right of")):
            both = [said.get(f"first {words} second") for words in pair]
            assert None in both or sorted(both) == ["no", "yes"]


@few
@given(seeds)
def test_the_neighbours_named_are_in_the_scene(seed):
    for example, _, items in lessons(seed, "around"):
        there = {f"{o.combination.color} {o.combination.shape}" for o in cast_scene(seed, SMALL).objects}
        for item in items:
            who = re.sub(r"^\w+ (?:an? )?", "", item)
            assert who == "nothing" or who in there
        assert not all(item.endswith(" nothing") for item in items)
        assert example.objects[0] < len(cast_scene(seed, SMALL).objects)


@few
@given(seeds)
def test_at_most_one_motion_is_said_to_be_seen(seed):
    sight = Sight(Renderer(cast_scene(seed, SMALL)))
    for example, names, items in lessons(seed, "watched"):
        motions = [i for n, i in zip(names, items, strict=True) if n not in ("hidden", "first", "last")]
        assert sum(item.endswith(" yes") for item in motions) <= 1
        if "hidden no" in items:
            first, last = example.frame_indices[0], example.frame_indices[-1]
            assert sight.seen(example.objects[0])[first : last + 1].all()


def test_no_lesson_is_among_the_kinds_that_are_scored():
    assert not LESSONS.keys() & KINDS.keys()
