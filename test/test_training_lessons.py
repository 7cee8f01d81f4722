# SPDX-License-Identifier: Apache-2.0
"""Lessons decide many things in one answer: each once, and each of them true."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_training_language import MICRO

from pixelrefer_ros.training.checkpoints import new_checkpoint, new_network, tokenizer_of
from pixelrefer_ros.training.data import prompt_row, turn_of
from pixelrefer_ros.training.text_rows import IGNORED
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
from pixelrefer_ros.training.world.questions.comparing_lessons import DECISIONS
from pixelrefer_ros.training.world.questions.over_time import MOTION_PHRASES

SMALL = SceneSettings(frames=20, size=(320, 240), objects=(3, 6))
seeds = st.integers(0, SEED_RANGES["val"].stop - 1)
few = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))


def lessons(seed: int, kind: str):
    """Examples, and what is to be said to what is heard in them."""
    for example in scene_examples(seed, 6, settings=SMALL, kinds=(kind,)):
        yield example, {heard.removeprefix(" "): said for heard, said in example.lesson}


def combination(example, place: int = 0):
    return cast_scene(example.scene_seed, SMALL).objects[example.objects[place]].combination


NAMES = ["first", "second", "third"]
PAIRED = {"first and the second": (0, 1), "first and the third": (0, 2), "second and the third": (1, 2)}


def value(example, place: int, word: str) -> str | None:
    """What a region's object has; None where there are not so many."""
    if place >= len(example.objects):
        return None
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
    yes, no = said.count("Yes"), said.count("No")
    assert min(yes, no) > 0.2 * (yes + no)


@few
@given(seeds)
def test_a_word_is_checked_with_yes_where_the_object_has_it(seed):
    for example, decided in lessons(seed, "checked"):
        true = combination(example)
        for heard, said in decided.items():
            if named(heard) in {*COLORS, *SURFACES, *SHAPES}:
                assert said == ("Yes" if named(heard) in true else "No")


@few
@given(seeds)
def test_the_letter_chosen_is_that_of_the_objects_own_attribute(seed):
    for example, decided in lessons(seed, "chosen"):
        for heard, said in decided.items():
            letter, word = re.fullmatch(r"\(([ABC])\) (\w+)", said).groups()
            slot = heard.split()[0]
            assert f"({letter}) {word}" in heard
            assert slot == "size" or word == getattr(combination(example), slot)


@few
@given(seeds)
def test_objects_are_said_to_share_what_they_share(seed):
    for example, decided in lessons(seed, "compared"):
        shared = [said for heard, said in decided.items() if " same " in heard and said in ("Yes", "No")]
        assert shared.count("No") <= shared.count("Yes") or len(decided) == DECISIONS
        for heard, said in decided.items():
            names, same, word = heard.partition(" same ")
            if same and said in ("Yes", "No"):
                values = {value(example, place, word) for place in PAIRED[names]}
                assert said == ("Yes" if len(values) == 1 else "No")
            elif same:
                first, second, third = (value(example, place, word) for place in range(3))
                alike = {"first and the second": first == second, "first and the third": first == third}
                alike |= {"second and the third": second == third}
                assert [said] == [f"The {names}." for names, true in alike.items() if true]


@few
@given(seeds)
def test_each_is_said_to_be_what_it_is_and_to_be_where_it_is(seed):
    for example, decided in lessons(seed, "compared"):
        sight = Sight(Renderer(cast_scene(example.scene_seed, SMALL)))
        x, y = zip(*(sight.center(n, example.frame_indices[0]) for n in example.objects), strict=True)
        for heard, said in decided.items():
            place, is_, words = heard.removeprefix("the ").partition(" is ")
            if is_:
                assert said == ("Yes" if named(words) in combination(example, NAMES.index(place)) else "No")
            of_two = re.fullmatch(
                r"the (\w+) (to the left of|to the right of|higher than|lower than) the (\w+)", heard
            )
            if of_two:
                one, other = (NAMES.index(of_two[place]) for place in (1, 3))
                along, sign = {"left": (x, 1), "right": (x, -1), "higher": (y, 1), "lower": (y, -1)}[
                    of_two[2].split()[-2 if of_two[2].startswith("to") else 0]
                ]
                assert said == ("Yes" if sign * along[one] < sign * along[other] else "No")


@few
@given(seeds)
def test_the_first_is_told_from_the_second_by_what_only_one_of_them_has(seed):
    for example, decided in lessons(seed, "ordered"):
        count = len(example.objects)
        for heard, said in decided.items():
            asked, of, whose = heard.rpartition(" of the ")
            if of and whose in NAMES:
                assert said == value(example, NAMES.index(whose), asked)
                continue
            whose = (whose if of else heard.removeprefix("the ")).removesuffix(" one")
            owners = [place for place in range(count) if whose in combination(example, place)]
            assert len(owners) == 1
            assert said == (value(example, owners[0], asked) if of else f"The {NAMES[owners[0]]}.")


@few
@given(seeds)
def test_the_neighbours_named_are_in_the_scene_and_those_agreed_to_are_the_ones_named(seed):
    for example, decided in lessons(seed, "around"):
        there = {f"{o.combination.color} {o.combination.shape}" for o in cast_scene(seed, SMALL).objects}
        sides = {heard: named(said) for heard, said in decided.items() if said not in ("Yes", "No")}
        assert set(sides.values()) <= {*there, "nothing", "gray board"}
        assert set(sides.values()) != {"nothing"}
        for heard, said in decided.items():
            if heard not in sides:
                words = named(heard).split(" ", 2)
                assert said == ("Yes" if sides[words[2]] == " ".join(words[:2]) else "No")
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
        assert of_motion.count("Yes") <= 1
        moves = decided.get("what it does") in {f"It {words}." for words in MOTION_PHRASES.values()}
        assert moves == bool(of_motion)
        if "hidden" in decided:
            assert {decided["hidden"], decided["always visible"]} == {"Yes", "No"}
            assert (decided["when hidden"] == "It was never hidden.") == (decided["hidden"] == "No")
        if decided.get("hidden") == "No":
            first, last = example.frame_indices[0], example.frame_indices[-1]
            assert sight.seen(example.objects[0])[first : last + 1].all()


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
