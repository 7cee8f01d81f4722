# SPDX-License-Identifier: Apache-2.0
"""Questions about several frames: does it move and how, when was it hidden, where was it at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np

from pixelrefer_ros.training.world.course import CHANGED, GAP, MOVED, NO_GAP, motion_of
from pixelrefer_ros.training.world.questions.about_one import PLACE_PHRASES
from pixelrefer_ros.training.world.questions.draft import Asking, Draft
from pixelrefer_ros.training.world.vocabulary import DIRECTIONS, MOTIONS

MOTION_PHRASES = {
    "still": "stays still",
    "left": "moves to the left",
    "right": "moves to the right",
    "up": "moves up",
    "down": "moves down",
    "growing": "grows",
    "shrinking": "shrinks",
    "rotating": "rotates",
}
_ASKED = {
    "still": "staying still",
    "left": "moving to the left",
    "right": "moving to the right",
    "up": "moving up",
    "down": "moving down",
    "growing": "growing",
    "shrinking": "shrinking",
    "rotating": "rotating",
}
_MOTION = (
    ("What does <region> do in the video?", "It {does}."),
    ("How does <region> change over time?", "It {does}."),
    ("Describe the motion of <region>.", "It {does}."),
)
_DIRECTION = (
    ("Which way does <region> move?", "It {does}."),
    ("In which direction is <region> moving?", "It {does}."),
)
_MOVING = (
    ("Is <region> moving?", "It {does}: {yes}."),
    ("Does <region> move from one place to another?", "It {does}: {yes}."),
)
_IS_MOTION = (
    ("Is <region> {asked}?", "It {does}: {yes}."),
    ("In the video, is <region> {asked}?", "It {does}: {yes}."),
)
_HIDDEN_WHEN = (
    ("When was <region> hidden?", "It was hidden between {start} s and {end} s."),
    ("At what time could <region> not be seen?", "Between {start} s and {end} s."),
    ("When does <region> disappear and come back?", "It is hidden between {start} s and {end} s."),
)
_NEVER = tuple((question, "It was never hidden.") for question, _ in _HIDDEN_WHEN)
_HIDDEN_EVER = (
    ("Was <region> hidden at any time?", "It was {hidden}: {yes}."),
    ("Is <region> out of sight at some time?", "It was {hidden}: {yes}."),
)
_ALWAYS = (
    ("Was <region> visible all the time?", "It was {hidden}: {yes}."),
    ("Can <region> always be seen?", "It was {hidden}: {yes}."),
)
_PLACE_AT = (
    ("Where is <region> at {time} s?", "It is {at} of the image."),
    ("In which part of the image is <region> at {time} s?", "{at}"),
)

_CLEAR, _SAME = 0.6, 0.15  # of what counts as moved or changed, over both ends
_NEITHER = 0.25  # of what is the same at both ends is asked for
_LEFT_OUT = 0.6  # of the lessons about times: in so many frames are left out


def motion(asking: Asking) -> Draft | None:
    """What it does; for directions also which way it goes."""
    value = motion_of(asking.sight, asking.number, asking.views)
    if value is None:
        return None
    wordings = _MOTION + _DIRECTION if value in DIRECTIONS else _MOTION
    return asking.draft(asking.phrase(wordings, does=MOTION_PHRASES[value]), [("motion", value)])


def moving(asking: Asking) -> Draft | None:
    """Whether it goes anywhere; asked of still objects and of those that go in a direction."""
    value = motion_of(asking.sight, asking.number, asking.views)
    if value not in ("still", *DIRECTIONS) or value is None:
        return None
    yes = "no" if value == "still" else "yes"
    phrased = asking.phrase(_MOVING, yes=yes, does=MOTION_PHRASES[value])
    return asking.draft(phrased, [("answer", yes)], known=[("motion", value)])


def is_motion(asking: Asking) -> Draft | None:
    """Yes or no to one motion, as often yes as no."""
    value = motion_of(asking.sight, asking.number, asking.views)
    if value is None:
        return None
    true = asking.rng.random() < 0.5
    asked = value if true else asking.choose([word for word in MOTIONS if word != value])
    yes = "yes" if true else "no"
    phrased = asking.phrase(_IS_MOTION, asked=_ASKED[asked], does=MOTION_PHRASES[value], yes=yes)
    return asking.draft(phrased, [("answer", yes)], known=[("motion", value)], claim=(_ASKED[asked], yes))


def hidden_when(asking: Asking) -> Draft | None:
    """Between which of the times given it was hidden, or that it never was."""
    hidden = asking.hiding
    if hidden is None:
        return None
    if isinstance(hidden, str):
        # "Never" is the commoner truth by far.
        return (
            asking.draft(asking.phrase(_NEVER), [("hidden", "never")]) if asking.rng.random() < 0.35 else None
        )
    return asking.draft(asking.phrase(_HIDDEN_WHEN, **times(hidden)), hiding_facts(hidden))


def hidden_ever(asking: Asking) -> Draft | None:
    """Whether it was hidden, or always visible."""
    hidden = asking.hiding
    if hidden is None or (hidden == "never" and asking.rng.random() < 0.65):
        return None
    wordings, true = (
        (_HIDDEN_EVER, hidden != "never") if asking.rng.random() < 0.5 else (_ALWAYS, hidden == "never")
    )
    yes = "yes" if true else "no"
    if isinstance(hidden, str):
        said, known = "never hidden", [("hidden", hidden)]
    else:
        said, known = "hidden between {start} s and {end} s".format(**times(hidden)), hiding_facts(hidden)
    return asking.draft(asking.phrase(wordings, hidden=said, yes=yes), [("answer", yes)], known=known)


def place_at(asking: Asking) -> Draft | None:
    """Where it was at one of the times looked at."""
    index = asking.views[int(asking.rng.integers(len(asking.views)))]
    value = asking.sight.place(asking.number, index)
    if value is None:
        return None
    time = seconds((index - asking.views[0]) / asking.sight.scene.rate_hz)
    phrased = asking.phrase(_PLACE_AT, time=time, at=PLACE_PHRASES[value])
    return asking.draft(phrased, [("place", value)])


def watched(asking: Asking) -> Draft | None:
    """A lesson: motions, when it was hidden, and where it was at each of the times."""
    motion = motion_of(asking.sight, asking.number, asking.views)
    hidden = asking.hiding
    items = []
    if motion is not None:
        does = MOTION_PHRASES[motion]
        items += [
            (asked, f"{does}: {'yes' if word == motion else 'no'}")
            for word, asked in _ASKED.items()
            if word == motion or asking.rng.random() < 0.5
        ]
        items.append(("what it does", does))
    if hidden is not None:
        never = isinstance(hidden, str)
        items += [("hidden", "no" if never else "yes"), ("always visible", "yes" if never else "no")]
        when = "never" if isinstance(hidden, str) else "{start} s to {end} s".format(**times(hidden))
        items.append(("when hidden", when))
    for index in asking.views:
        place = asking.sight.place(asking.number, index)
        if place is not None:
            time = seconds((index - asking.views[0]) / asking.sight.scene.rate_hz)
            items.append((f"at {time} s", place))
    return asking.lesson("Watch <region>.", items)


def timed(asking: Asking) -> Draft | None:
    """A lesson: which of the times given follows which, and where there is a gap between them.

    A prompt names only frames in which the object is seen: that it was hidden shows in nothing but their
    times. Few objects are, so that in some lessons frames are left out, as if it were.
    """
    views = _with_gap(asking) if asking.rng.random() < _LEFT_OUT else asking.views
    steps = np.diff(views)
    usual = float(np.median(steps))
    long = [place for place, step in enumerate(steps) if step >= GAP * usual]
    if len(views) < 3 or len(long) > 1 or np.sum(steps > NO_GAP * usual) > len(long):
        return None
    at = [seconds((index - views[0]) / asking.sight.scene.rate_hz) for index in views]
    between = " to ".join(f"{time} s" for time in at[long[0] : long[0] + 2]) if long else ""
    items = [("long step", between or "none"), ("when hidden", between or "never")]
    for place, (before, after) in enumerate(pairwise(at)):
        step = "long" if place in long else "short"
        items += [(f"after {before} s", f"{after} s, {step}"), (f"step after {before} s", step)]
    draft = asking.lesson("Times of <region>.", items)
    return replace(draft, views=tuple(views)) if draft else None


def ends(asking: Asking) -> Draft | None:
    """A lesson: at which of both ends the object is higher, further left, larger, or at neither.

    Which of several objects is the highest is learned soon where an answer names it; so of an object at
    several times, where it names the time.
    """
    sight, number = asking.sight, asking.number
    first, last = asking.views[0], asking.views[-1]
    if not (sight.whole(number, first) and sight.whole(number, last)):
        return None
    start, end = (sight.scene.pose(number, index) for index in (first, last))
    short = sight.scene.short_side
    items = [
        *_at_ends(asking, ("further left at", "further right at"), (start.x - end.x) / short / MOVED),
        *_at_ends(asking, ("higher at", "lower at"), (start.y - end.y) / short / MOVED),
        *_at_ends(asking, ("smaller at", "larger at"), math.log(start.scale / end.scale) / math.log(CHANGED)),
    ]
    return asking.lesson("Compare <region> at both ends.", items)


def _at_ends(asking: Asking, words: tuple[str, str], less: float) -> list[tuple[str, str]]:
    """At which end each word is true; ``less``: by how many times of what counts it is less at the end."""
    last = (asking.views[-1] - asking.views[0]) / asking.sight.scene.rate_hz
    at = [f"{seconds(last)} s", f"{seconds(0.0)} s"]
    if abs(less) >= _CLEAR:
        return list(zip(words, at if less > 0 else at[::-1], strict=True))
    told = abs(less) <= _SAME and asking.rng.random() < _NEITHER  # the commoner truth by far
    return [(word, "neither") for word in words] if told else []


def _with_gap(asking: Asking) -> tuple[int, ...]:
    """The frames looked at, but for one or two in a row of those between the ends."""
    views, count = asking.views, int(asking.rng.integers(1, 3))
    if len(views) < count + 3:
        return views
    first = int(asking.rng.integers(1, len(views) - count))
    return views[:first] + views[first + count :]


def seconds(time_s: float) -> str:
    """A time as prompts and answers write it."""
    return f"{time_s:.1f}"


def times(hidden: tuple[float, float]) -> dict[str, str]:
    """Both ends of a time of hiding, in words."""
    return {"start": seconds(hidden[0]), "end": seconds(hidden[1])}


def hiding_facts(hidden: tuple[float, float]) -> list[tuple[str, str]]:
    """What an answer states of it."""
    return [("hidden_from", seconds(hidden[0])), ("hidden_to", seconds(hidden[1]))]
