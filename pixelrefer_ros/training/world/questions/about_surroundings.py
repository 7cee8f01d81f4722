# SPDX-License-Identifier: Apache-2.0
"""Questions about what is beside, before and behind the object; neighbours are named by colour and shape."""

from __future__ import annotations

from dataclasses import replace

from pixelrefer_ros.training.world.facts import Fact, Facts
from pixelrefer_ros.training.world.questions.draft import Asking, Draft, article
from pixelrefer_ros.training.world.surroundings import (
    NOTHING,
    SIDES,
    Side,
    all_beside,
    behind,
    beside,
    in_front,
    name,
    neighbors,
    next_to,
)
from pixelrefer_ros.training.world.vocabulary import BOARD, COLORS, SHAPES

_NEXT_TO = (
    ("What is next to <region>?", "{A}."),
    ("Which object is nearest to <region>?", "It is {a}."),
    ("What is the closest neighbor of <region>?", "{A}."),
)
_NEXT_TO_NOTHING = tuple((question, "Nothing.") for question, _ in _NEXT_TO)
SIDE_WORDS = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
_ALL_SIDES = {**SIDE_WORDS, "next": "next to", "front": "in front of", "behind": "behind"}
_BESIDE = (
    ("What is {side} <region>?", "{A}."),
    ("Which object is {side} <region>?", "It is {a}."),
    ("Name the object {side} <region>.", "{A}."),
)
_IN_FRONT = (
    ("What is in front of <region>?", "{A}."),
    ("What covers part of <region>?", "It is {a}."),
    ("Which thing hides a part of <region>?", "{A}."),
)
_BEHIND = (
    ("What is behind <region>?", "{A}."),
    ("What does <region> cover in part?", "It is {a}."),
    ("Which object is partly hidden by <region>?", "{A}."),
)
_IS_BESIDE = (
    ("Is there {a} {side} <region>?", "There is {found}: {yes}."),
    ("Do you see {a} {side} <region>?", "There is {found}: {yes}."),
)


def next_object(asking: Asking) -> Draft | None:
    """What is nearest."""
    found = next_to(asking.sight, asking.number, asking.newest)
    if found is None:
        return None
    if isinstance(found, str):
        return asking.draft(asking.phrase(_NEXT_TO_NOTHING), [("answer", NOTHING)])
    return _named(asking, _NEXT_TO, name(asking.sight, found))


def object_beside(asking: Asking) -> Draft | None:
    """What is on one of its four sides: the nearest is named, and whoever else is straight there is right."""
    side = tuple(SIDES)[int(asking.rng.integers(4))]
    found = beside(asking.sight, asking.number, asking.newest, side)
    if found is None or (found == NOTHING and asking.rng.random() < 0.5):  # "nothing" is the commoner truth
        return None
    who = NOTHING if isinstance(found, str) else name(asking.sight, found)
    draft = _named(asking, _BESIDE, who, side=SIDE_WORDS[side])
    facts = _of_everybody(asking, side)
    return replace(draft, alternatives=tuple(own for own in facts if own != draft.facts))


def is_beside(asking: Asking) -> Draft | None:
    """Whether a certain object is on one side; where the answer is no, its colour is another one.

    A no may name the nearest one there, or whoever else is straight there.
    """
    side = tuple(SIDES)[int(asking.rng.integers(4))]
    found = beside(asking.sight, asking.number, asking.newest, side)
    if not isinstance(found, int):
        return None
    true = asking.rng.random() < 0.5
    asked = there = name(asking.sight, found)
    if not true:
        present = {name(asking.sight, number) for number in range(len(asking.sight.scene.objects))}
        shape = asking.sight.scene.objects[found].combination.shape
        colors = [color for color in COLORS if f"{color} {shape}" not in present]
        if not colors:
            return None
        asked = f"{asking.choose(colors)} {shape}"
    yes, words = "yes" if true else "no", {"a": article(asked), "found": article(there)}
    phrased = asking.phrase(_IS_BESIDE, side=SIDE_WORDS[side], yes=yes, **words)
    known = zip(("color", "shape"), there.split(), strict=True)
    draft = asking.draft(phrased, [("answer", yes)], known=known)
    if true:
        return draft
    return replace(draft, alternatives=tuple(draft.facts | own for own in _of_everybody(asking, side)))


def _of_everybody(asking: Asking, side: Side) -> list[Facts]:
    """What names each of those who are straight on a side."""
    seen = all_beside(asking.sight, asking.number, asking.newest)
    return [_facts(name(asking.sight, other)) for where, other in seen if where == side]


def front(asking: Asking) -> Draft | None:
    """What covers a part of it."""
    found = in_front(asking.sight, asking.number, asking.newest)
    if found is None or (found == NOTHING and asking.rng.random() < 0.85):
        return None
    return _named(asking, _IN_FRONT, found)


def back(asking: Asking) -> Draft | None:
    """What it covers a part of."""
    found = behind(asking.sight, asking.number, asking.newest)
    if found is None or (found == NOTHING and asking.rng.random() < 0.85):
        return None
    return _named(asking, _BEHIND, NOTHING if isinstance(found, str) else name(asking.sight, found))


def around(asking: Asking) -> Draft | None:
    """A lesson: what is on each of its sides, nearest, before and behind it; and whether something is."""
    found = {
        where: who
        for where, who in neighbors(asking.sight, asking.number, asking.newest).items()
        if who is not None
    }
    present = [who for who in found.values() if who != NOTHING]
    if not present:
        return None
    items = []
    for where, who in found.items():
        side = _ALL_SIDES[where]
        items.append((side, who))
        for asked in (who, asking.choose(present), f"{asking.choose(tuple(COLORS))} {asking.choose(SHAPES)}"):
            if asked != NOTHING and asking.rng.random() < 0.5:
                items.append((f"{article(asked)} {side}", f"{who}: {'yes' if asked == who else 'no'}"))
    return asking.lesson("Look around <region>.", items)


def _named(asking: Asking, wordings: tuple[tuple[str, str], ...], who: str, **words: str) -> Draft:
    if who == NOTHING:
        question, _ = asking.phrase(wordings, a="", A="", **words)
        return asking.draft((question, "Nothing."), [("answer", NOTHING)])
    named = article(who)
    phrased = asking.phrase(wordings, a=named, A=named[0].upper() + named[1:], **words)
    return asking.draft(phrased, _facts(who))


def _facts(who: str) -> Facts:
    """What an answer states that names somebody so."""
    if who == BOARD:
        return frozenset({Fact("shape", BOARD)})
    return frozenset(Fact(slot, word) for slot, word in zip(("color", "shape"), who.split(), strict=True))
