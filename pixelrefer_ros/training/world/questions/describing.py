# SPDX-License-Identifier: Apache-2.0
"""Descriptions: brief ones name the object, detailed ones say everything that the world knows of it."""

from __future__ import annotations

from pixelrefer_ros.training.world.course import motion_of
from pixelrefer_ros.training.world.questions.about_one import PLACE_PHRASES
from pixelrefer_ros.training.world.questions.about_surroundings import SIDE_WORDS
from pixelrefer_ros.training.world.questions.draft import Asking, Draft, article
from pixelrefer_ros.training.world.questions.over_time import MOTION_PHRASES, hiding_facts, times
from pixelrefer_ros.training.world.surroundings import (
    NOTHING,
    all_beside,
    in_front,
    name,
    next_to,
    side_of,
)

_BRIEF = (
    "Please describe <region> in brief.",
    "Describe <region> briefly.",
    "Give a short description of <region>.",
)
_DETAIL = (
    "Please describe <region> in detail.",
    "Describe <region> and its surroundings in detail.",
    "Please describe the region <region> in the image in detail.",
)
_VIDEO = (
    "Please describe in detail the marked object <region> in the video.",
    "There is one object in the video: <region>. Please describe it in detail.",
    "Describe in detail what <region> is and what it does.",
)


def brief(asking: Asking) -> Draft | None:
    """What it is, its size and where it is."""
    sight, number, index = asking.sight, asking.number, asking.newest
    size, place = sight.size(number, index), sight.place(number, index)
    if size is None or place is None:
        return None
    it = sight.scene.objects[number].combination
    words = f"{article(f'{size} {it}').capitalize()} {PLACE_PHRASES[place]} of the image."
    return asking.draft(
        (asking.choose(_BRIEF), words), [*it._asdict().items(), ("size", size), ("place", place)]
    )


def detail(asking: Asking) -> Draft | None:
    """Everything there is to say of it in one picture."""
    found = _picture(asking)
    if found is None:
        return None
    sentences, facts = found
    return asking.draft((asking.choose(_DETAIL), " ".join(sentences)), facts, known=_all_sides(asking))


def video_detail(asking: Asking) -> Draft | None:
    """What it is, how it moves, when it was hidden and where it ends; sizes change, so none is given."""
    sight, number = asking.sight, asking.number
    place = sight.place(number, asking.newest)
    motion = motion_of(sight, number, asking.views)
    hidden = asking.hiding
    if place is None or motion is None or hidden is None:
        return None
    it = sight.scene.objects[number].combination
    sentences = [f"This is {article(str(it))}.", f"It {MOTION_PHRASES[motion]}."]
    facts = [*it._asdict().items(), ("motion", motion), ("place", place)]
    if isinstance(hidden, str):
        sentences.append("It is always visible.")
        facts.append(("hidden", "never"))
    else:
        sentences.append("It is hidden between {start} s and {end} s.".format(**times(hidden)))
        facts += hiding_facts(hidden)
    sentences.append(f"At the end it is {PLACE_PHRASES[place]} of the image.")
    size = sight.size(number, asking.newest)
    return asking.draft(
        (asking.choose(_VIDEO), " ".join(sentences)), facts, known=[("size", size)] if size else []
    )


def _picture(asking: Asking) -> tuple[list[str], list[tuple[str, str]]] | None:
    sight, number, index = asking.sight, asking.number, asking.newest
    place, front = sight.place(number, index), in_front(sight, number, index)
    near = next_to(sight, number, index)
    size = sight.size(number, index)
    if place is None or front is None or near is None:
        return None
    if size is None and sight.whole(number, index):
        return None  # between two size words; what is covered has none, and the description leaves it out
    it = sight.scene.objects[number].combination
    sized = f"{size} {it}" if size else str(it)
    facts = [*it._asdict().items(), ("place", place)] + ([("size", size)] if size else [])
    sentences = [f"This is {article(sized)}.", f"It is {PLACE_PHRASES[place]} of the image."]
    if isinstance(near, int):
        side, who = side_of(sight, number, near, index), name(sight, near)
        if side is None:
            return None
        sentences.append(f"{article(who).capitalize()} is {SIDE_WORDS[side]} it.")
        facts.append((side, who))
    else:
        sentences.append("Nothing is near it.")
        facts.append(("near", NOTHING))
    if front != NOTHING:
        sentences.append(f"{article(front).capitalize()} covers part of it.")
        facts.append(("cover", front))
    return sentences, facts


def _all_sides(asking: Asking) -> list[tuple[str, str]]:
    """Who else is on which side: true, though not the neighbour that the description names."""
    sight, number, index = asking.sight, asking.number, asking.newest
    return [(side, name(sight, other)) for side, other in all_beside(sight, number, index)]
