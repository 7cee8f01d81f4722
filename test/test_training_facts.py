# SPDX-License-Identifier: Apache-2.0
"""Answers are read back as facts; what contradicts the truth, or itself, is wrong."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelrefer_ros.training.world import (
    KINDS,
    Fact,
    Facts,
    SceneSettings,
    parse,
    scene_drafts,
    scene_seeds,
    score,
)


@pytest.mark.parametrize(
    ("answer", "facts"),
    [
        ("A red striped star.", {("color", "red"), ("surface", "striped"), ("shape", "star")}),
        ("an orange ring", {("color", "orange"), ("shape", "ring")}),
        ("(B) blue", {("choice", "B"), ("color", "blue")}),
        ("blue (B)", {("choice", "B"), ("color", "blue")}),
        ("C", {("choice", "C")}),
        ("It is on the left of the image.", {("place", "left")}),
        ("Top left.", {("place", "top left")}),
        ("the center of the image", {("place", "center")}),
        ("It moves to the left.", {("motion", "left")}),
        ("A blue circle is to the left of it.", {("left", "blue circle")}),
        ("A gray board covers part of it.", {("cover", "gray board")}),
        ("A gray board.", {("shape", "gray board")}),
        ("Nothing.", {("answer", "nothing")}),
        ("Nothing is above the red star.", {("answer", "nothing")}),
        ("Nothing is above it but a red star.", {("answer", "nothing"), ("color", "red"), ("shape", "star")}),
        ("Nothing is near it.", {("near", "nothing")}),
        ("I cannot tell from one picture.", {("answer", "unknown")}),
        ("I cannot tell whether it is a star or a ring.", {("answer", "unknown")}),
        ("They are red and blue: no.", {("answer", "no"), ("color", "red"), ("color", "blue")}),
        ("The red star is further left: yes.", {("answer", "yes"), ("color", "red"), ("shape", "star")}),
        ("Between 0.4 s and 1.2 s.", {("hidden_from", "0.4"), ("hidden_to", "1.2")}),
        ("No, it stays still.", {("answer", "no"), ("motion", "still")}),
        ("colorless green ideas", {("color", "green")}),
        ("", set()),
    ],
)
def test_answers_are_read(answer, facts):
    assert parse(answer) == {Fact(*fact) for fact in facts}


def test_a_contradiction_beside_the_right_answer_is_wrong():
    expected = frozenset({Fact("answer", "no")})
    known = frozenset({Fact("color", "blue")})
    assert score(parse("No, it is blue."), expected, known).correct
    assert not score(parse("No, it is red."), expected, known).correct
    assert not score(parse("It is red and blue."), frozenset({Fact("color", "blue")})).correct


def facts(*pairs: tuple[str, str]) -> Facts:
    return frozenset(Fact(*pair) for pair in pairs)


NEVER, TIMES = facts(("hidden", "never")), parse("between 0.4 s and 1.2 s")
YES, NO = facts(("answer", "yes")), facts(("answer", "no"))
NOTHING, UNKNOWN = facts(("answer", "nothing")), facts(("answer", "unknown"))
STAR, NONE = facts(("color", "red"), ("shape", "star")), facts()


@pytest.mark.parametrize(
    ("answer", "expected", "known"),
    [
        ("It was never hidden: yes.", YES, NEVER),
        ("It was hidden between 0.4 s and 1.2 s: no.", NO, TIMES),
        ("Nothing is to the left of the red star.", NOTHING, NONE),
        ("Nothing is hidden.", NOTHING, NONE),
        ("I cannot tell, but it is red.", UNKNOWN, facts(("color", "red"))),
        ("I cannot tell whether it is a star.", UNKNOWN, NONE),
        ("Nothing is near it.", facts(("near", "nothing")), NONE),
        ("It is a red star. It stays still.", STAR, NONE),
    ],
)
def test_what_can_be_said_together_is_right(answer, expected, known):
    assert score(parse(answer), expected, known).correct


@pytest.mark.parametrize(
    ("answer", "expected", "known"),
    [
        ("It was hidden between 0.4 s and 1.2 s: yes.", YES, NEVER),
        ("It was never hidden: yes.", YES, TIMES),
        ("It was never hidden. It was hidden between 0.4 s and 1.2 s.", NEVER, NONE),
        ("It was never hidden. It was hidden between 0.4 s and 1.2 s.", TIMES, NONE),
        ("Nothing. A red star.", NOTHING, NONE),
        ("Nothing. A red star.", STAR, NONE),
        ("Nothing. A red star is to the left of it.", NOTHING, NONE),
        ("Nothing is above it but a red star.", NOTHING, NONE),
        ("I cannot tell. It is a star.", UNKNOWN, facts(("color", "red"))),
        ("I cannot tell. It is a red star.", STAR, NONE),
        ("I cannot tell. It moves to the left.", UNKNOWN, STAR),
        ("I cannot tell (B)", facts(("choice", "B")), facts(("shape", "star"))),
        ("Nothing is near it. A red star is above it.", facts(("near", "nothing")), NONE),
        ("Nothing is near it. A red star is above it.", facts(("above", "red star")), NONE),
    ],
)
def test_what_cannot_be_said_together_is_wrong_though_the_right_answer_is_in_it(answer, expected, known):
    judged = score(parse(answer), expected, known)
    assert judged.recalled == judged.expected
    assert not judged.correct


def test_every_truth_of_some_hundred_scenes_is_right_of_itself():
    of_kinds = Counter()
    for occlusion in ("some", "full"):
        scenes = SceneSettings(frames=20, size=(320, 240), occlusion=occlusion)
        for seed in scene_seeds("val", 31, 60):
            for _, kind, draft in scene_drafts(seed, 12, settings=scenes):
                judged = score(parse(draft.answer), draft.facts, draft.known)
                assert judged.correct, (draft.question, draft.answer, draft.facts)
                assert judged.true == judged.stated
                assert judged.recalled == judged.expected > 0
                of_kinds[kind] += 1
    assert set(of_kinds) == set(KINDS)


def test_times_are_scored_with_a_tolerance_of_one_frame():
    expected = parse("between 0.4 s and 1.2 s")
    assert score(parse("between 0.5 s and 1.1 s"), expected).correct
    assert not score(parse("between 0.6 s and 1.2 s"), expected).correct


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text):
    assert all(isinstance(fact, Fact) for fact in parse(text))
