# SPDX-License-Identifier: Apache-2.0
"""Questions about two or three regions at the same time.

Answers say what was seen before what follows from it: "They are red and blue: no.". A language model then
decides from the words that it has just said, and one that calls the larger object by its name has only to
look at it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pixelrefer_ros.training.world.questions.draft import Asking, Draft, article
from pixelrefer_ros.training.world.surroundings import name

LARGER = 1.3
"""Sizes are compared only if both the diameters and the pixels differ by this factor."""
FURTHER = 0.1
"""Positions are compared only if they differ by this share of the frame's side."""

LISTED = {2: "<region> and <region>", 3: "<region>, <region> and <region>"}
_LARGER = (
    ("Which is larger, <region> or <region>?", "The {it}."),
    ("Compare <region> and <region>: which one is larger?", "The {it} is larger."),
)
_SMALLER = (
    ("Which is smaller, <region> or <region>?", "The {it}."),
    ("Compare <region> and <region>: which one is smaller?", "The {it} is smaller."),
)
SAME = {
    "color": ("Are <region> and <region> the same color?", "Do <region> and <region> have the same color?"),
    "shape": ("Are <region> and <region> the same shape?", "Do <region> and <region> have the same shape?"),
    "surface": (
        "Do <region> and <region> have the same pattern?",
        "Is the pattern of <region> and <region> the same?",
    ),
}
_THEY = {"color": "They are", "shape": "The shapes are", "surface": "They are"}
POSITIONS = {
    "to the left of": ("further left", 0, -1),
    "to the right of": ("further right", 0, 1),
    "higher than": ("higher", 1, -1),
    "lower than": ("lower", 1, 1),
}
FURTHEST = {
    "furthest to the left": (0, -1),
    "furthest to the right": (0, 1),
    "highest": (1, -1),
    "lowest": (1, 1),
}


def larger(asking: Asking) -> Draft | None:
    """Which of two is larger, or smaller."""
    objects = regions(asking, 2)
    most = asking.rng.random() < 0.5
    found = _found(asking, objects, lambda several: extreme(asking, several, most=most))
    if found is None:
        return None
    objects, which, it = found
    return _named(asking, asking.phrase(_LARGER if most else _SMALLER, it=it), which, objects)


def largest(asking: Asking) -> Draft | None:
    """Which of three is largest, or smallest."""
    objects = regions(asking, 3)
    most = asking.rng.random() < 0.5
    found = _found(asking, objects, lambda several: extreme(asking, several, most=most))
    if found is None:
        return None
    objects, which, it = found
    question = f"Which of {LISTED[3]} is the {'largest' if most else 'smallest'}?"
    return _named(asking, (question, f"The {it}."), which, objects)


def same(asking: Asking) -> Draft | None:
    """Whether two have the same colour, shape or pattern, as often yes as the scene allows."""
    slot = asking.choose(tuple(SAME))
    value = attribute(asking, asking.number, slot)
    true = asking.rng.random() < 0.5
    fitting = asking.others(1, lambda n: _asked(asking, n) and (attribute(asking, n, slot) == value) == true)
    if not fitting:
        return None
    objects = (asking.number, fitting[0])
    return asking.draft(
        (asking.choose(SAME[slot]), f"{_THEY[slot]} {alike(asking, objects, slot)}."),
        [("answer", "yes" if true else "no")],
        objects=objects,
        known=[(slot, attribute(asking, number, slot)) for number in objects],
    )


def shared(asking: Asking) -> Draft | None:
    """Which colour or shape just two of three have."""
    objects = regions(asking, 3)
    slot = asking.choose(("color", "shape"))
    value = None if objects is None else in_common(asking, objects, slot)
    if objects is None or value is None:
        return None
    question = f"Which {slot} do two of {LISTED[3]} share?"
    said = article(value) if slot == "shape" else value
    return asking.draft((question, f"It is {said}."), [(slot, value)], objects=objects)


def is_further(asking: Asking) -> Draft | None:
    """Whether one is left of, right of, higher or lower than another."""
    objects = regions(asking, 2)
    words = asking.choose(tuple(POSITIONS))
    found = _found(asking, objects, lambda several: further(asking, several, words))
    if found is None:
        return None
    objects, which, it = found
    yes = "no" if which else "yes"
    return asking.draft(
        (f"Is <region> {words} <region>?", f"The {it} is {POSITIONS[words][0]}: {yes}."),
        [("answer", yes)],
        objects=objects,
        known=_name_facts(asking, objects[which]),
    )


def furthest(asking: Asking) -> Draft | None:
    """Which of two or three is furthest to one side."""
    objects = regions(asking, 2 + int(asking.rng.integers(2)))
    words = asking.choose(tuple(FURTHEST))
    found = _found(asking, objects, lambda several: furthest_of(asking, several, words))
    if found is None:
        return None
    objects, which, it = found
    return _named(asking, (f"Which of {LISTED[len(objects)]} is {words}?", f"The {it}."), which, objects)


def _found(
    asking: Asking, objects: tuple[int, ...] | None, which_of: Callable[[tuple[int, ...]], int | None]
) -> tuple[tuple[int, ...], int, str] | None:
    """Several objects, the place of the one in question among them, and its name; None if any is missing."""
    if objects is None:
        return None
    which = which_of(objects)
    it = called(asking, objects, which)
    return None if which is None or it is None else (objects, which, it)


def called(asking: Asking, objects: tuple[int, ...], which: int | None) -> str | None:
    """What one of several is called by its colour and shape; None if another of them is, too, or for None."""
    names = [name(asking.sight, number) for number in objects]
    return None if which is None or names.count(names[which]) > 1 else names[which]


def alike(asking: Asking, objects: tuple[int, ...], slot: str) -> str:
    """What two are, and then whether that is the same: "red and blue: no"."""
    one, other = (attribute(asking, number, slot) for number in objects)
    return f"{one} and {other}: {'yes' if one == other else 'no'}"


def in_common(asking: Asking, objects: tuple[int, ...], slot: str) -> str | None:
    """What just two of three have; None if it is none, or all of them."""
    values = [attribute(asking, number, slot) for number in objects]
    return next((value for value in values if values.count(value) == 2), None)


def further(asking: Asking, objects: tuple[int, ...], words: str) -> int | None:
    """The place of the one of two that is further to a side; None if they are too near to each other."""
    _, axis, sign = POSITIONS[words]
    along = along_axis(asking, objects, axis, sign)
    return None if abs(along[0] - along[1]) < FURTHER else int(along[1] > along[0])


def _named(asking: Asking, phrased: tuple[str, str], which: int, objects: tuple[int, ...]) -> Draft:
    return asking.draft(phrased, _name_facts(asking, objects[which]), objects=objects)


def _name_facts(asking: Asking, number: int) -> list[tuple[str, str]]:
    return [(slot, attribute(asking, number, slot)) for slot in ("color", "shape")]


def _asked(asking: Asking, number: int) -> bool:
    return asking.sight.recognizable(number, asking.newest)


def regions(asking: Asking, count: int, *, related: bool = False) -> tuple[int, ...] | None:
    """The object and others, in random order; ``related``: every other time one that has something of it."""
    others = asking.others(len(asking.sight.scene.objects), lambda number: _asked(asking, number))
    if related:
        slot = asking.choose(tuple(SAME))
        if asking.rng.random() < 0.5:
            own = attribute(asking, asking.number, slot)
            others.sort(key=lambda number: attribute(asking, number, slot) != own)
    if len(others) < count - 1:
        return None
    objects = [asking.number, *others[: count - 1]]
    return tuple(objects[i] for i in asking.rng.permutation(count))


def attribute(asking: Asking, number: int, slot: str) -> str:
    """A word of what an object is."""
    return str(getattr(asking.sight.scene.objects[number].combination, slot))


def extreme(asking: Asking, objects: tuple[int, ...], *, most: bool) -> int | None:
    """The place in ``objects`` of the largest, or smallest; None if the next one is too alike."""
    sight, index = asking.sight, asking.newest
    if not all(sight.whole(number, index) for number in objects):
        return None
    diameters = np.array([sight.scene.diameter(number, index) for number in objects])
    pixels = np.array([float(sight.pixels[index, number]) for number in objects])
    which = int(diameters.argmax() if most else diameters.argmin())
    for values in (diameters, pixels):
        ratios = values[which] / np.delete(values, which)
        if np.any((ratios if most else 1 / ratios) < LARGER):
            return None
    return which


def furthest_of(asking: Asking, objects: tuple[int, ...], words: str) -> int | None:
    """The place in ``objects`` of the furthest to one side; None if the next one is too near."""
    along = along_axis(asking, objects, *FURTHEST[words])
    order = np.argsort(along)
    return None if along[order[-1]] - along[order[-2]] < FURTHER else int(order[-1])


def along_axis(asking: Asking, objects: tuple[int, ...], axis: int, sign: int) -> list[float]:
    """How far each is to one side, as shares of the frame."""
    side = (asking.sight.scene.width, asking.sight.scene.height)[axis]
    return [sign * asking.sight.center(number, asking.newest)[axis] / side for number in objects]
