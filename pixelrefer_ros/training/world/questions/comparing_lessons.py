# SPDX-License-Identifier: Apache-2.0
"""Lessons about two or three regions: which of them is which, and what they are to each other."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator

from pixelrefer_ros.training.world.questions.about_one import PLACE_PHRASES
from pixelrefer_ros.training.world.questions.comparing import (
    FURTHEST,
    LISTED,
    SAME,
    alike,
    attribute,
    called,
    extreme,
    further,
    furthest_of,
    in_common,
    regions,
)
from pixelrefer_ros.training.world.questions.draft import Asking, Draft

DECISIONS = 8
"""Of a lesson at most: three objects would offer three times as many."""
ORDINALS = ("first", "second", "third")

_WORDS = {"color": "color", "shape": "shape", "surface": "pattern"}


def ordered(asking: Asking) -> Draft | None:
    """A lesson: what the first of them is, and what else the red one is.

    Which is which has to be told apart before they can be compared.
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
        for slot, words in _only(asking, objects, number):
            other = asking.choose([word for word in _WORDS if word != slot])
            items.append((f"{_WORDS[other]} of {words}", attribute(asking, number, other)))
    return asking.lesson(_question(objects), items, objects=objects, most=DECISIONS)


def compared(asking: Asking) -> Draft | None:
    """A lesson: what they have in common, and in which they differ."""
    objects = _objects(asking)
    if objects is None:
        return None
    items = [*_of_pairs(asking, objects), *_outermost(asking, objects)]
    for slot, word in _WORDS.items():
        value = in_common(asking, objects, slot)
        if value is not None and len(objects) == 3:
            items.append((f"{word} of two", value))
    return asking.lesson(_question(objects), items, objects=objects, most=DECISIONS)


def _objects(asking: Asking) -> tuple[int, ...] | None:
    return regions(asking, 2 + int(asking.rng.integers(2)), related=True)


def _question(objects: tuple[int, ...]) -> str:
    return f"Compare {LISTED[len(objects)]}."


def _only(asking: Asking, objects: tuple[int, ...], number: int) -> Iterator[tuple[str, str]]:
    """What only one of them is, and words for it: the red one, the star, the large one, the one on the left.

    Which is the largest, or furthest to the left, is found as these are.
    """
    of_slots: dict[str, Callable[[int], str | None]] = {
        **{slot: functools.partial(attribute, asking, slot=slot) for slot in SAME},
        "size": lambda n: asking.sight.size(n, asking.newest),
        "place": lambda n: asking.sight.place(n, asking.newest),
    }
    for slot, of in of_slots.items():
        values = [of(other) for other in objects]
        own = of(number)
        if own is None or None in values or values.count(own) > 1:
            continue
        if slot == "place":
            yield slot, f"the one {PLACE_PHRASES[own]}"
        else:
            yield slot, f"the {own}" if slot == "shape" else f"the {own} one"


def _of_pairs(asking: Asking, objects: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """Whether two are the same, and whether one is left of the other, or higher, in random order."""
    for pair in itertools.combinations(range(len(objects)), 2):
        one, other = pair if asking.rng.random() < 0.5 else pair[::-1]
        two = (objects[one], objects[other])
        names = (ORDINALS[one], ORDINALS[other])
        for slot, word in _WORDS.items():
            yield f"{names[0]} and {names[1]} same {word}", alike(asking, two, slot)
        for options in (("to the left of", "to the right of"), ("higher than", "lower than")):
            words = asking.choose(options)
            which = further(asking, two, words)
            it = called(asking, two, which)
            if it is not None:
                yield f"{names[0]} {words} the {names[1]}", f"{it}: {'no' if which else 'yes'}"


def _outermost(asking: Asking, objects: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """What only one of them is, where that is clear, and what that one is called."""
    found = {words: furthest_of(asking, objects, words) for words in FURTHEST}
    for of_two, of_three, most in (("larger", "largest", True), ("smaller", "smallest", False)):
        found[of_two if len(objects) == 2 else of_three] = extreme(asking, objects, most=most)
    for words, which in found.items():
        it = called(asking, objects, which)
        if it is not None:
            yield words, it
