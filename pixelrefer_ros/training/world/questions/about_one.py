# SPDX-License-Identifier: Apache-2.0
"""Questions about the object itself: what it is, its attributes, where it is in the image.

An answer of yes or no says what is seen before what follows from it, as those to comparisons do.
"""

from __future__ import annotations

from pixelrefer_ros.training.world.questions.draft import Asking, Draft, article
from pixelrefer_ros.training.world.vocabulary import COLORS, PLACES, SHAPES, SIZES, SURFACES

ATTRIBUTES = {"color": tuple(COLORS), "surface": SURFACES, "shape": SHAPES, "size": tuple(SIZES)}
PLACE_NAMES = tuple(name for row in PLACES for name in row)
CHECKED, CHOSEN = 14, 6
"""Decisions of a lesson at most; the same one is not asked for twice."""

PLACE_PHRASES = {
    name: (
        "in the "
        if " " in name or name == "center"
        else "on the "
        if name in ("left", "right")
        else "at the "
    )
    + name
    for name in PLACE_NAMES
}

_CATEGORY = (
    ("What is <region>?", "It is {a}."),
    ("What is the category of <region>? Using only one word or phrase.", "{a}"),
    ("What object is marked by <region>?", "The object is {a}."),
    ("Name <region> in a few words.", "{a}"),
    ("Can you tell me what <region> is?", "It is {a}."),
    ("What does <region> show?", "It shows {a}."),
)
_COLOR = (
    ("What color is <region>?", "It is {value}."),
    ("What is the color of <region>? Answer in one word.", "{value}"),
    ("Tell me the color of <region>.", "The color is {value}."),
    ("Which color does <region> have?", "It is {value}."),
)
_SHAPE = (
    ("What shape is <region>?", "It is {a}."),
    ("What is the shape of <region>? Answer in one word.", "{value}"),
    ("Tell me the shape of <region>.", "The shape is {a}."),
    ("Which shape does <region> have?", "It is {a}."),
)
_SURFACE = (
    ("What does the surface of <region> look like?", "It is {value}."),
    ("What pattern does <region> have? Answer in one word.", "{value}"),
    ("Is <region> plain, striped, dotted or checked?", "It is {value}."),
    ("Tell me the pattern of <region>.", "The pattern is {value}."),
)
_SIZE = (
    ("How large is <region>?", "It is {value}."),
    ("What is the size of <region>? Answer in one word.", "{value}"),
    ("Is <region> small, medium or large?", "It is {value}."),
    ("Tell me the size of <region>.", "The size is {value}."),
)
_IS_ADJECTIVE = (
    ("Is <region> {asked}?", "It is {value}: {yes}."),
    ("Tell me whether <region> is {asked}.", "It is {value}: {yes}."),
    ("Would you call <region> {asked}?", "It is {value}: {yes}."),
)
_IS_NOUN = (
    ("Is <region> {a_asked}?", "It is {a}: {yes}."),
    ("Tell me whether <region> is {a_asked}.", "It is {a}: {yes}."),
    ("Would you call <region> {a_asked}?", "It is {a}: {yes}."),
)
_CHOICE_QUESTIONS = {
    "color": "What color is <region>?",
    "surface": "Which pattern does <region> have?",
    "shape": "Which shape is <region>?",
    "size": "How large is <region>?",
}
_PLACE = (
    ("Where is <region> in the image?", "It is {at} of the image."),
    ("In which part of the image is <region>?", "{at}"),
    ("Tell me the position of <region>.", "It is {at}."),
)
_IS_PLACE = (
    ("Is <region> {at} of the image?", "It is {found}: {yes}."),
    ("Tell me whether <region> is {at} of the picture.", "It is {found}: {yes}."),
)


def category(asking: Asking) -> Draft | None:
    """What it is: colour, surface and shape."""
    it = asking.sight.scene.objects[asking.number].combination
    return asking.draft(asking.phrase(_CATEGORY, a=article(str(it))), it._asdict().items())


def _attribute(asking: Asking, slot: str, wordings: tuple[tuple[str, str], ...]) -> Draft | None:
    value = value_of(asking, slot)
    if value is None:
        return None
    return asking.draft(asking.phrase(wordings, value=value, a=article(value)), [(slot, value)])


def color(asking: Asking) -> Draft | None:
    """Its colour."""
    return _attribute(asking, "color", _COLOR)


def shape(asking: Asking) -> Draft | None:
    """Its shape."""
    return _attribute(asking, "shape", _SHAPE)


def surface(asking: Asking) -> Draft | None:
    """Its pattern."""
    return _attribute(asking, "surface", _SURFACE)


def size(asking: Asking) -> Draft | None:
    """Its size word."""
    return _attribute(asking, "size", _SIZE)


def is_attribute(asking: Asking) -> Draft | None:
    """Yes or no to one attribute, as often yes as no."""
    slot = asking.choose(tuple(ATTRIBUTES))
    value = value_of(asking, slot)
    if value is None:
        return None
    true = asking.rng.random() < 0.5
    asked = value if true else asking.choose([word for word in ATTRIBUTES[slot] if word != value])
    wordings = _IS_NOUN if slot == "shape" else _IS_ADJECTIVE
    words = {"asked": asked, "a_asked": article(asked), "value": value, "a": article(value)}
    yes = "yes" if true else "no"
    phrased = asking.phrase(wordings, yes=yes, **words)
    return asking.draft(phrased, [("answer", yes)], known=[(slot, value)], claim=(asked, yes))


def choice(asking: Asking) -> Draft | None:
    """One of three, lettered; the answer begins with what is seen, from which its letter follows."""
    slot = asking.choose(tuple(ATTRIBUTES))
    value = value_of(asking, slot)
    if value is None:
        return None
    listed, letter = _lettered(asking, slot, value)
    phrased = (f"{_CHOICE_QUESTIONS[slot]} {listed}", f"{value} ({letter})")
    return asking.draft(phrased, [("choice", letter)], known=[(slot, value)])


def place(asking: Asking) -> Draft | None:
    """Where it is in the image."""
    value = asking.sight.place(asking.number, asking.newest)
    if value is None:
        return None
    return asking.draft(asking.phrase(_PLACE, at=PLACE_PHRASES[value]), [("place", value)])


def is_place(asking: Asking) -> Draft | None:
    """Yes or no to a place, as often yes as no."""
    value = asking.sight.place(asking.number, asking.newest)
    if value is None:
        return None
    true = asking.rng.random() < 0.5
    asked = value if true else asking.choose(_wrong_places(value))
    at, yes = PLACE_PHRASES[asked], "yes" if true else "no"
    phrased = asking.phrase(_IS_PLACE, at=at, found=PLACE_PHRASES[value], yes=yes)
    return asking.draft(phrased, [("answer", yes)], known=[("place", value)], claim=(at, yes))


def checked(asking: Asking) -> Draft | None:
    """A lesson: attributes and places, each with what it is, and so yes or no; and its own place."""
    at = asking.sight.place(asking.number, asking.newest)
    true = {slot: value_of(asking, slot) for slot in ATTRIBUTES} | {"place": at}
    words = ATTRIBUTES | ({} if at is None else {"place": (at, *_wrong_places(at))})
    clear = [slot for slot, value in true.items() if value is not None]
    items = []
    for _ in range(CHECKED):
        slot = asking.choose(clear)
        asked = str(true[slot]) if asking.rng.random() < 0.5 else asking.choose(words[slot])
        said = article(asked) if slot == "shape" else PLACE_PHRASES[asked] if slot == "place" else asked
        items.append((said, f"{true[slot]}: {'yes' if asked == true[slot] else 'no'}"))
    if at is not None:
        items.append(("where", at))
    return asking.lesson("Check <region>.", items)


def chosen(asking: Asking) -> Draft | None:
    """A lesson: one of three words, by its letter."""
    values = {slot: value_of(asking, slot) for slot in ATTRIBUTES}
    clear = [slot for slot, value in values.items() if value is not None]
    items = []
    for _ in range(CHOSEN):
        slot = asking.choose(clear)
        listed, letter = _lettered(asking, slot, str(values[slot]))
        items.append((f"{slot} {listed}", f"{values[slot]} ({letter})"))
    return asking.lesson("Choose for <region>.", items)


def _wrong_places(value: str) -> tuple[str, ...]:
    """The other places, but for those within the name: what is in the bottom right is on the right, too."""
    return tuple(name for name in PLACE_NAMES if name != value and name not in value.split())


def _lettered(asking: Asking, slot: str, value: str) -> tuple[str, str]:
    """A value among two wrong ones, and its letter."""
    wrong = asking.rng.permutation([word for word in ATTRIBUTES[slot] if word != value])[:2]
    options = [str(word) for word in asking.rng.permutation([value, *wrong])]
    listed = " ".join(f"({letter}) {word}" for letter, word in zip("ABC", options, strict=True))
    return listed, "ABC"[options.index(value)]


def value_of(asking: Asking, slot: str) -> str | None:
    """The value of an attribute; None for a size between two words."""
    if slot == "size":
        return asking.sight.size(asking.number, asking.newest)
    return str(getattr(asking.sight.scene.objects[asking.number].combination, slot))
