# SPDX-License-Identifier: Apache-2.0
"""In which order a new language model learns to read: one skill after the other, in short parts."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from pixelrefer_ros.training.readings import OF_CHANGES
from pixelrefer_ros.training.world import KINDS, LESSONS, VIDEO_VIEWS, SceneSettings

SCENE = SceneSettings(size=(320, 240))  # measured from masks: small ones are quick
STILL = replace(SCENE, frames=1)
_SEVERAL = replace(STILL, objects=(3, 8))
REHEARSAL = 4
"""One scene in so many asks for what was learned before."""


@dataclass(frozen=True, slots=True)
class Part:
    """Of a course.

    Attributes:
        steps: of a run of all parts' steps; of a shorter or longer one, in proportion.
        kinds: of questions; one named several times is asked that much more often.
        scene: of the scenes.
        rehearsed: kinds learned before, which one scene in four asks.
        alone: whether signs say nothing of what is around.
        views: the fewest and the most frames looked at of a video.
    """

    steps: int
    kinds: tuple[str, ...]
    scene: SceneSettings = STILL
    rehearsed: tuple[str, ...] = ()
    alone: bool = False
    views: tuple[int, int] = VIDEO_VIEWS


@dataclass(frozen=True, slots=True)
class Course:
    """A stage of training.

    Attributes:
        name: of the stage, in the log and the state.
        parts: one after the other.
        rate: the highest learning rate, as a share of ``reading_rate``.
        flat: share of the steps at that rate.
        answered: weight of the loss of answers.
        compared: weight of the readings of how objects change, see `ChangeHeads`.
        settled: whether signs learn no more: object tokens may begin to be taught by them meanwhile.
    """

    name: str
    parts: tuple[Part, ...]
    rate: float
    flat: float
    answered: float = 1.0
    compared: float = 0.0
    settled: bool = False

    @property
    def steps(self) -> int:
        """Of all parts."""
        return sum(part.steps for part in self.parts)

    def part(self, number: int, steps: int) -> Part:
        """What batch ``number`` of a run of so many steps is of; with no steps, the last part."""
        ends = itertools.accumulate(part.steps for part in self.parts)
        return next(
            (part for part, end in zip(self.parts, ends, strict=True) if number * self.steps < end * steps),
            self.parts[-1],
        )


_ONE = (
    "category",
    "color",
    "shape",
    "surface",
    "size",
    "is_attribute",
    "choice",
    "place",
    "is_place",
    "describe_brief",
    "checked",
    "chosen",
)
_COMPARED = ("larger", "largest", "same", "shared", "is_further", "furthest", "compared")
_AROUND = ("next_to", "beside", "is_beside", "in_front", "behind", "describe_detail", "around")
_VIDEO = ("motion", "moving", "is_motion", "hidden_when", "hidden_ever", "place_at", "watched")
READING = Course(
    "reading",
    (
        Part(330, _ONE, alone=True),
        Part(255, ("ordered",), rehearsed=_ONE, alone=True),
        Part(465, (*_COMPARED, "compared", "compared", "ordered"), rehearsed=_ONE, alone=True),
        Part(280, (*_AROUND, "around"), rehearsed=(*_ONE, *_COMPARED, "ordered")),
        Part(380, _VIDEO, SCENE, rehearsed=(*_ONE, *_COMPARED, *_AROUND, "ordered")),
        Part(290, (*KINDS, *LESSONS), SCENE),
    ),
    rate=1.0,
    flat=0.75,
)
"""What there is to tell, mostly in lessons; what comes last has to be learned, too, hence the flat share.

To match a question's word to an object's signs comes before anything that is built on it. What the first of
several objects is, is learned within some hundred steps where nearly everything asks for it, and was not in
a thousand where few of the questions did."""
_BEFORE = (*_ONE, *_COMPARED, *_AROUND, "ordered")
_WAYS = ("motion", "motion", "is_motion", "moving")
ASKING = Course(
    "asking",
    (
        Part(
            190,
            ("larger", "larger", "largest", "is_further", "is_further", "furthest"),
            _SEVERAL,
            rehearsed=_BEFORE,
        ),
        Part(
            120,
            ("next_to", "beside", "beside", "is_beside", "is_beside", "behind", "in_front", "is_place"),
            _SEVERAL,
            rehearsed=_BEFORE,
        ),
        Part(250, _WAYS, SCENE, rehearsed=_BEFORE, views=(2, 2)),
        Part(140, (*_WAYS, "hidden_when", "describe_video"), SCENE, rehearsed=_BEFORE, views=(3, 8)),
    ),
    rate=0.5,
    flat=0.7,
)
"""The same, as questions are asked.

In a lesson what is asked comes right before what is said to it, after all objects. In "Is <region> left of
<region>?" it stands between them: what was learned in lessons does not carry over by itself, and the number
of questions of a kind decides. Of a motion the two ends tell most; two frames cost a third of eight."""
COMPARING = Course(
    "comparing",
    (Part(400, ("motion", "is_motion", "place_at"), SCENE, views=(3, 8)),),
    rate=0.5,
    flat=0.85,
    answered=0.0,
    compared=1.0,
    settled=True,
)
"""To compare an object's frames, by nothing but readings of how it changes.

Beside answers next to nothing of it is learned in as many steps; alone, one measure after the other."""
_DETAILS = ("describe_detail", "describe_detail", "describe_detail", "beside", "is_beside", "is_further")
_PASSING = ("hidden_when", "hidden_when", "hidden_ever", "describe_video", "describe_video", "watched")
TELLING = Course(
    "telling",
    (
        Part(100, (*_DETAILS, "is_further"), _SEVERAL, rehearsed=_BEFORE),
        Part(100, (*_WAYS, "ends", "ends", "timed"), SCENE, rehearsed=_BEFORE, views=(4, 6)),
        Part(160, (*_WAYS, *_PASSING, "timed", "timed"), SCENE, rehearsed=_BEFORE),
        Part(140, (*KINDS, *LESSONS), SCENE),
    ),
    rate=0.5,
    flat=0.7,
    compared=OF_CHANGES,
    settled=True,
)
"""What is learned last: long answers, and what happens over time."""
