# SPDX-License-Identifier: Apache-2.0
"""Questions about two or three regions at the same time."""

from __future__ import annotations

import numpy as np

from pixelrefer_ros.training.world.questions.draft import Asking, Draft

LARGER = 1.3
"""Sizes are compared only if both the diameters and the pixels differ by this factor."""
FURTHER = 0.1
"""Positions are compared only if they differ by this share of the frame's side."""

LISTED = {2: "<region> and <region>", 3: "<region>, <region> and <region>"}
ORDINALS = ("first", "second", "third")
PAIRS = {(0, 1): "first and the second", (0, 2): "first and the third", (1, 2): "second and the third"}
_LARGER = (
    ("Which is larger, <region> or <region>?", "The {which}."),
    ("Compare <region> and <region>: which one is larger?", "The {which} one is larger."),
)
_SMALLER = (
    ("Which is smaller, <region> or <region>?", "The {which}."),
    ("Compare <region> and <region>: which one is smaller?", "The {which} one is smaller."),
)
SAME = {
    "color": ("Are <region> and <region> the same color?", "Do <region> and <region> have the same color?"),
    "shape": ("Are <region> and <region> the same shape?", "Do <region> and <region> have the same shape?"),
    "surface": (
        "Do <region> and <region> have the same pattern?",
        "Is the pattern of <region> and <region> the same?",
    ),
}
POSITIONS = {
    "to the left of": (0, -1),
    "to the right of": (0, 1),
    "higher than": (1, -1),
    "lower than": (1, 1),
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
    which = None if objects is None else extreme(asking, objects, most=most)
    if objects is None or which is None:
        return None
    wordings = _LARGER if most else _SMALLER
    return _which(asking, asking.phrase(wordings, which=ORDINALS[which]), which, objects)


def largest(asking: Asking) -> Draft | None:
    """Which of three is largest, or smallest."""
    objects = regions(asking, 3)
    most = asking.rng.random() < 0.5
    which = None if objects is None else extreme(asking, objects, most=most)
    if objects is None or which is None:
        return None
    question = f"Which of <region>, <region> and <region> is the {'largest' if most else 'smallest'}?"
    return _which(asking, (question, f"The {ORDINALS[which]}."), which, objects)


def same(asking: Asking) -> Draft | None:
    """Whether two have the same colour, shape or pattern, as often yes as the scene allows."""
    slot = asking.choose(tuple(SAME))
    value = attribute(asking, asking.number, slot)
    true = asking.rng.random() < 0.5
    fitting = asking.others(1, lambda n: _asked(asking, n) and (attribute(asking, n, slot) == value) == true)
    if not fitting:
        return None
    objects = (asking.number, fitting[0])
    yes = "yes" if true else "no"
    return asking.draft(
        (asking.choose(SAME[slot]), f"{yes.capitalize()}."), [("answer", yes)], objects=objects
    )


def same_pair(asking: Asking) -> Draft | None:
    """Which two of three have the same colour or shape, where just two do."""
    objects = regions(asking, 3)
    if objects is None:
        return None
    slot = asking.choose(("color", "shape"))
    values = [attribute(asking, number, slot) for number in objects]
    pairs = [pair for pair in PAIRS if values[pair[0]] == values[pair[1]]]
    if len(pairs) != 1:
        return None
    words = PAIRS[pairs[0]]
    question = f"Which two of <region>, <region> and <region> have the same {slot}?"
    return asking.draft(
        (question, f"The {words}."), [("which", words.replace(" the ", " "))], objects=objects
    )


def is_further(asking: Asking) -> Draft | None:
    """Whether one is left of, right of, higher or lower than another."""
    objects = regions(asking, 2)
    if objects is None:
        return None
    words = asking.choose(tuple(POSITIONS))
    axis, sign = POSITIONS[words]
    along = along_axis(asking, objects, axis, sign)
    if abs(along[0] - along[1]) < FURTHER:
        return None
    yes = "yes" if along[0] > along[1] else "no"
    return asking.draft(
        (f"Is <region> {words} <region>?", f"{yes.capitalize()}."), [("answer", yes)], objects=objects
    )


def furthest(asking: Asking) -> Draft | None:
    """Which of two or three is furthest to one side."""
    objects = regions(asking, 2 + int(asking.rng.integers(2)))
    if objects is None:
        return None
    words = asking.choose(tuple(FURTHEST))
    which = furthest_of(asking, objects, words)
    if which is None:
        return None
    question = f"Which of {LISTED[len(objects)]} is {words}?"
    return _which(asking, (question, f"The {ORDINALS[which]}."), which, objects)


def _which(asking: Asking, phrased: tuple[str, str], which: int, objects: tuple[int, ...]) -> Draft:
    return asking.draft(phrased, [("which", ORDINALS[which])], objects=objects)


def _asked(asking: Asking, number: int) -> bool:
    return asking.sight.recognizable(number, asking.newest)


def regions(asking: Asking, count: int, *, alike: bool = False) -> tuple[int, ...] | None:
    """The object and others, in random order; ``alike``: every other time one that has something of it."""
    others = asking.others(len(asking.sight.scene.objects), lambda number: _asked(asking, number))
    if alike:
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
