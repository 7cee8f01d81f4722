# SPDX-License-Identifier: Apache-2.0
"""Lessons about two or three regions: which of them is which, and what they are to each other."""

from __future__ import annotations

from collections.abc import Iterator

from pixelrefer_ros.training.world.questions.comparing import (
    FURTHER,
    FURTHEST,
    LISTED,
    ORDINALS,
    PAIRS,
    POSITIONS,
    SAME,
    along_axis,
    attribute,
    extreme,
    furthest_of,
    regions,
)
from pixelrefer_ros.training.world.questions.draft import Asking, Draft, article

DECISIONS = 14
"""Of a lesson at most: three objects would offer three times as many."""

_WORDS = {"color": "color", "shape": "shape", "surface": "pattern"}


def ordered(asking: Asking) -> Draft | None:
    """A lesson: what the first of them is, and which of them is the red one.

    Which is which has to be told apart before it can be said which is the larger one.
    """
    objects = _objects(asking)
    if objects is None:
        return None
    items = []
    for place, number in enumerate(objects):
        items += [
            (f"{word} of the {ORDINALS[place]}", attribute(asking, number, slot))
            for slot, word in _WORDS.items()
        ]
        for slot in _own(asking, objects, number):
            words = attribute(asking, number, slot)
            words = words if slot == "shape" else f"{words} one"
            items.append((f"the {words}", f"The {ORDINALS[place]}."))
            other = asking.choose([word for word in _WORDS if word != slot])
            items.append((f"{_WORDS[other]} of the {words}", attribute(asking, number, other)))
    return asking.lesson(_question(objects), items, objects=objects, most=DECISIONS)


def compared(asking: Asking) -> Draft | None:
    """A lesson: whether the first is this, what they have in common, and in which they differ."""
    objects = _objects(asking)
    if objects is None:
        return None
    items = [*_each(asking, objects), *_shared(asking, objects), *_positions(asking, objects)]
    items += [(words, f"The {ORDINALS[which]}.") for words, which in _outermost(asking, objects)]
    return asking.lesson(_question(objects), items, objects=objects, most=DECISIONS)


def _objects(asking: Asking) -> tuple[int, ...] | None:
    return regions(asking, 2 + int(asking.rng.integers(2)), alike=True)


def _question(objects: tuple[int, ...]) -> str:
    return f"Compare {LISTED[len(objects)]}."


def _own(asking: Asking, objects: tuple[int, ...], number: int) -> Iterator[str]:
    """The attributes that only one of them has."""
    for slot in SAME:
        values = [attribute(asking, other, slot) for other in objects]
        if values.count(attribute(asking, number, slot)) == 1:
            yield slot


def _each(asking: Asking, objects: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """Whether the first is this and the second that, in words that are true of one of them."""
    for place, number in enumerate(objects):
        slot = asking.choose(tuple(SAME))
        words = attribute(asking, objects[int(asking.rng.integers(len(objects)))], slot)
        said = article(words) if slot == "shape" else words
        yes = words == attribute(asking, number, slot)
        yield f"the {ORDINALS[place]} is {said}", "Yes" if yes else "No"


def _shared(asking: Asking, objects: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """What two of them have in common, with as many in which they differ: else "No" would nearly do."""
    alike: list[str] = []
    different: list[str] = []
    for slot, word in _WORDS.items():
        values = [attribute(asking, number, slot) for number in objects]
        same = [pair for pair in PAIRS if max(pair) < len(objects) and values[pair[0]] == values[pair[1]]]
        for pair, names in PAIRS.items():
            if max(pair) < len(objects):
                (alike if pair in same else different).append(f"{names} same {word}")
        if len(objects) == 3 and len(same) == 1:
            yield f"which two same {word}", f"The {PAIRS[same[0]]}."
    for words in alike:
        yield words, "Yes"
    for place in asking.rng.permutation(len(different))[: len(alike)]:
        yield different[int(place)], "No"


def _positions(asking: Asking, objects: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """Whether one is left of another, or higher: each of a pair once, in random order."""
    for pair in PAIRS:
        if max(pair) >= len(objects):
            continue
        one, other = pair if asking.rng.random() < 0.5 else pair[::-1]
        for words in (
            asking.choose(("to the left of", "to the right of")),
            asking.choose(("higher than", "lower than")),
        ):
            along = along_axis(asking, (objects[one], objects[other]), *POSITIONS[words])
            if abs(along[0] - along[1]) >= FURTHER:
                yield (
                    f"the {ORDINALS[one]} {words} the {ORDINALS[other]}",
                    "Yes" if along[0] > along[1] else "No",
                )


def _outermost(asking: Asking, objects: tuple[int, ...]) -> Iterator[tuple[str, int]]:
    """What only one of them is, where that is clear, and its place among them."""
    for words in FURTHEST:
        which = furthest_of(asking, objects, words)
        if which is not None:
            yield words, which
    for of_two, of_three, most in (("larger", "largest", True), ("smaller", "smallest", False)):
        which = extreme(asking, objects, most=most)
        if which is not None:
            yield of_two if len(objects) == 2 else of_three, which
