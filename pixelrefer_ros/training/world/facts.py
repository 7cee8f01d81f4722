# SPDX-License-Identifier: Apache-2.0
"""What an answer says, as facts: read back from its words, and compared with the truth.

A fact is a slot and a value.

- Of the object itself: ``size``, ``color``, ``surface``, ``shape``, ``place``, ``motion``, ``hidden``
  (never), ``hidden_from`` and ``hidden_to`` (s).
- Of what surrounds it: ``left``, ``right``, ``above``, ``below`` (who is there), ``cover`` (who covers a part
  of it), ``near`` (nothing).
- Of the question: ``answer`` (yes, no, nothing, unknown), ``choice`` (A, B, C).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from pixelrefer_ros.training.world.vocabulary import (
    BOARD,
    COLORS,
    DIRECTIONS,
    PLACES,
    SHAPES,
    SIZES,
    SURFACES,
)

TIME_TOLERANCE_S = 0.15
"""A stated time may be off by so much: answers are rounded to tenths, and frames are a tenth apart."""


class Fact(NamedTuple):
    """One thing an answer says."""

    slot: str
    value: str


Facts = frozenset[Fact]

_TIMES = ("hidden_from", "hidden_to")
_WHAT = {"color", "surface", "shape", "size", "choice"}
_SIDES = {"left", "right", "above", "below"}
_EXCLUDED: dict[Fact, set[str]] = {
    Fact("answer", "nothing"): _WHAT | _SIDES | {"cover"},
    Fact("answer", "unknown"): _WHAT | {"place", "motion", "hidden", *_TIMES},
    Fact("hidden", "never"): set(_TIMES),
    Fact("near", "nothing"): _SIDES,
}
"""An answer that says the first contradicts itself by whatever it says in these slots."""


@dataclass(frozen=True, slots=True)
class Score:
    """How an answer compares with the truth.

    Attributes:
        correct: it states every expected fact, and nothing that contradicts those or what else is known:
            no other value of theirs, and nothing that cannot be said beside them.
        stated: facts it states.
        true: those of them that are true.
        expected: facts it should state.
        recalled: those of them that it states.
    """

    correct: bool
    stated: int
    true: int
    expected: int
    recalled: int


def score(
    stated: Facts, expected: Facts, known: Facts = frozenset(), alternatives: Iterable[Facts] = ()
) -> Score:
    """Compares what was said with what should have been.

    Args:
        stated: from `parse`.
        expected: what a right answer says.
        known: what else is true; saying it is no fault.
        alternatives: what other right answers say in its place; a wrong one is compared with `expected`.
    """
    scores = [_compared(stated, right, known) for right in (expected, *alternatives)]
    return next((of_answer for of_answer in scores if of_answer.correct), scores[0])


def _compared(stated: Facts, expected: Facts, known: Facts) -> Score:
    true = [fact for fact in stated if _among(fact, expected) or _among(fact, known)]
    recalled = [fact for fact in expected if _among(fact, stated)]
    contradicted = any(
        _at_odds(fact, truth) for fact in stated if fact not in true for truth in (*expected, *known)
    )
    return Score(
        correct=len(recalled) == len(expected) and not contradicted,
        stated=len(stated),
        true=len(true),
        expected=len(expected),
        recalled=len(recalled),
    )


def _at_odds(fact: Fact, truth: Fact) -> bool:
    """Whether a fact that is not true cannot stand beside one that is."""
    excluded = fact.slot in _EXCLUDED.get(truth, ()) or truth.slot in _EXCLUDED.get(fact, ())
    return fact.slot == truth.slot or excluded


def _among(fact: Fact, facts: Iterable[Fact]) -> bool:
    if fact.slot not in _TIMES:
        return fact in set(facts)
    return any(
        other.slot == fact.slot and abs(float(other.value) - float(fact.value)) <= TIME_TOLERANCE_S + 1e-9
        for other in facts
    )


def _one_of(words: Iterable[str]) -> str:
    return "(" + "|".join(sorted(words, key=lambda word: (-len(word), word))) + ")"


_PLACE_WORDS = [word for row in PLACES for word in row]
_NEIGHBOR = f"(?:a|an|the) (?P<who>{_one_of(COLORS)} {_one_of(SHAPES)}|{BOARD})"
_NOUN = re.compile(
    rf"\b(?:(?P<size>{'|'.join(SIZES)}) )?(?P<color>{'|'.join(COLORS)}) "
    rf"(?:(?P<surface>{'|'.join(SURFACES)}) )?(?P<shape>{'|'.join(SHAPES)})\b"
)
_BESIDE = re.compile(_NEIGHBOR + r" is (?:to the )?(?P<where>left|right|above|below)(?: of)? it\b")
_COVER = re.compile(_NEIGHBOR + r" covers part of it\b")
_PLACE = re.compile(
    rf"\b(?:in|at|on) the {_one_of(_PLACE_WORDS)}\b|^(?:the )?{_one_of(_PLACE_WORDS)}(?: of the image)?\.?$"
)
_HIDDEN = re.compile(r"\bhidden between (\d+\.\d) s and (\d+\.\d) s\b|^between (\d+\.\d) s and (\d+\.\d) s\b")
_CHOICE = re.compile(r"(?:^\(?|\()([abc])(?:\)|\.?$)")
_MOVES = re.compile(rf"\bmov(?:es|ing) (?:to the )?{_one_of(DIRECTIONS)}\b")
_DENIED = re.compile(
    r"(?<=^nothing) (?:is|lies|covers|hides|can)\b(?:(?! but )[^.:;,])*"
    r"|(?<=\bi cannot tell) (?:if|whether|which|what)\b(?:(?! but )[^.:;,])*"
)
_MOTION_WORDS: dict[str, str] = {
    r"\b(?:stays still|not moving|does not move)\b": "still",
    r"\b(?:grows|growing|gets larger)\b": "growing",
    r"\b(?:shrinks|shrinking|gets smaller)\b": "shrinking",
    r"\b(?:rotates|rotating|turns)\b": "rotating",
}
_ANSWERS = {
    r"(?:^|: )yes\b": "yes",
    r"(?:^|: )no\b": "no",
    r"^nothing\b(?! is near)": "nothing",
    r"\bi cannot tell\b": "unknown",
}


def parse(answer: str) -> Facts:
    """Reads the facts that an answer states, in any of the world's wordings; the rest is passed over."""
    text = re.sub(r"\s+", " ", answer.lower()).strip()
    facts: set[Fact] = set()

    def take(pattern: re.Pattern[str], read: Callable[[re.Match[str]], Iterable[Fact]]) -> None:
        nonlocal text
        for match in pattern.finditer(text):
            facts.update(read(match))
        text = pattern.sub(" ", text)

    for word, value in _ANSWERS.items():
        if re.search(word, text):
            facts.add(Fact("answer", value))
    if re.search(r"\bnothing is near it\b", text):
        facts.add(Fact("near", "nothing"))
    if re.search(r"\b(?:never hidden|always visible)\b", text):
        facts.add(Fact("hidden", "never"))
    take(_DENIED, lambda _: [])  # "nothing is above the red star" says nothing of a star
    take(_CHOICE, lambda m: [Fact("choice", m[1].upper())])
    # What speaks of the surroundings goes first, and is taken out: it is not the object's own.
    take(_BESIDE, lambda m: [Fact(m["where"], m["who"])])
    take(_COVER, lambda m: [Fact("cover", m["who"])])
    take(_NOUN, lambda m: [Fact(slot, value) for slot, value in m.groupdict().items() if value])
    take(_MOVES, lambda m: [Fact("motion", m[1])])
    take(_PLACE, lambda m: [Fact("place", m[1] or m[2])])
    take(_HIDDEN, lambda m: [Fact("hidden_from", m[1] or m[3]), Fact("hidden_to", m[2] or m[4])])
    for words, motion in _MOTION_WORDS.items():
        take(re.compile(words), lambda _, motion=motion: [Fact("motion", motion)])  # type: ignore[misc]
    if BOARD in text:
        facts.add(Fact("shape", BOARD))
    for slot, values in (("color", COLORS), ("surface", SURFACES), ("shape", SHAPES), ("size", SIZES)):
        facts.update(Fact(slot, word) for word in values if re.search(rf"\b{word}\b", text))
    return frozenset(facts)
