# SPDX-License-Identifier: Apache-2.0
"""Every kind of question of the shapes world, with the row of scores it counts in."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pixelrefer_ros.training.world.questions import (
    about_one,
    about_surroundings,
    comparing,
    comparing_lessons,
    describing,
    honest,
    over_time,
)
from pixelrefer_ros.training.world.questions.draft import REGION, Asking, Draft, Maker

Row = Literal["category", "attributes", "place", "relation", "comparison", "time", "description", "honest"]
ROWS: tuple[Row, ...] = (
    "category",
    "attributes",
    "place",
    "relation",
    "comparison",
    "time",
    "description",
    "honest",
)
"""The rows of the table of scores."""

Views = Literal["picture", "video", "hidden"]
"""One frame in which the object is recognisable; several frames; one frame in which it is nearly hidden."""


class Kind(NamedTuple):
    """A kind of question.

    Attributes:
        row: which score it counts in.
        views: what it looks at.
        weight: how often it is tried, relative to the others.
        make: the maker.
    """

    row: Row
    views: Views
    weight: float
    make: Maker


KINDS: dict[str, Kind] = {
    "category": Kind("category", "picture", 4.0, about_one.category),
    "color": Kind("attributes", "picture", 1.0, about_one.color),
    "shape": Kind("attributes", "picture", 1.2, about_one.shape),
    "surface": Kind("attributes", "picture", 1.5, about_one.surface),
    "size": Kind("attributes", "picture", 1.2, about_one.size),
    "is_attribute": Kind("attributes", "picture", 1.5, about_one.is_attribute),
    "choice": Kind("attributes", "picture", 1.5, about_one.choice),
    "place": Kind("place", "picture", 2.5, about_one.place),
    "is_place": Kind("place", "picture", 1.5, about_one.is_place),
    "next_to": Kind("relation", "picture", 2.5, about_surroundings.next_object),
    "beside": Kind("relation", "picture", 4.5, about_surroundings.object_beside),
    "is_beside": Kind("relation", "picture", 3.0, about_surroundings.is_beside),
    "in_front": Kind("relation", "picture", 4.5, about_surroundings.front),
    "behind": Kind("relation", "picture", 5.0, about_surroundings.back),
    "larger": Kind("comparison", "picture", 1.5, comparing.larger),
    "largest": Kind("comparison", "picture", 1.5, comparing.largest),
    "same": Kind("comparison", "picture", 2.0, comparing.same),
    "shared": Kind("comparison", "picture", 2.0, comparing.shared),
    "is_further": Kind("comparison", "picture", 1.0, comparing.is_further),
    "furthest": Kind("comparison", "picture", 1.0, comparing.furthest),
    "motion": Kind("time", "video", 3.0, over_time.motion),
    "moving": Kind("time", "video", 1.0, over_time.moving),
    "is_motion": Kind("time", "video", 2.0, over_time.is_motion),
    "hidden_when": Kind("time", "video", 5.0, over_time.hidden_when),
    "hidden_ever": Kind("time", "video", 2.0, over_time.hidden_ever),
    "place_at": Kind("time", "video", 1.5, over_time.place_at),
    "describe_brief": Kind("description", "picture", 2.5, describing.brief),
    "describe_detail": Kind("description", "picture", 9.0, describing.detail),
    "describe_video": Kind("description", "video", 4.0, describing.video_detail),
    "unknowable": Kind("honest", "picture", 0.8, honest.unknowable),
    "one_picture": Kind("honest", "picture", 0.8, honest.one_picture),
    "barely_seen": Kind("honest", "hidden", 1.5, honest.barely_seen),
}

LESSONS: dict[str, Kind] = {
    "checked": Kind("attributes", "picture", 6.0, about_one.checked),
    "chosen": Kind("attributes", "picture", 3.0, about_one.chosen),
    "around": Kind("relation", "picture", 6.0, about_surroundings.around),
    "ordered": Kind("comparison", "picture", 6.0, comparing_lessons.ordered),
    "compared": Kind("comparison", "picture", 6.0, comparing_lessons.compared),
    "watched": Kind("time", "video", 5.0, over_time.watched),
    "timed": Kind("time", "video", 5.0, over_time.timed),
    "ends": Kind("time", "video", 5.0, over_time.ends),
}
"""Shown in training only: a dozen decisions in one answer. To say yes or no a language model has to find a
question's word in an object's tokens; from one such decision in each question, none was learned from 30,000
questions, from lists of them it is after some thousand. Their answers state no facts, and are not judged."""
OFFERED = KINDS | LESSONS

__all__ = ["KINDS", "LESSONS", "OFFERED", "REGION", "ROWS", "Asking", "Draft", "Kind", "Row", "Views"]
