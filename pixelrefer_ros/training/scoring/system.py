# SPDX-License-Identifier: Apache-2.0
"""The whole system: boxes on the first frame, masks streamed for a clip, and then the question."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from pixelrefer_ros.model import PixelReferLite
from pixelrefer_ros.perception import Perception, PerceptionSettings
from pixelrefer_ros.tracking import Tracker
from pixelrefer_ros.training.scoring.answers import RowScore
from pixelrefer_ros.training.scoring.tracks import CLIP_FRAMES, OBJECTS, followed
from pixelrefer_ros.training.world import (
    Fact,
    Renderer,
    SceneSettings,
    Sight,
    cast_scene,
    parse,
    region_of,
    score,
)
from pixelrefer_ros.types import AnswerStatus, Question

QUESTION = "What is <region>?"


@dataclass(slots=True)
class SystemScores:
    """What perception answers after a clip.

    Attributes:
        category: of the objects that are recognisable in the last frame; a question that gets no answer
            (a lost object) counts as wrong.
        unanswered: how many of them got none.
    """

    category: RowScore = field(default_factory=RowScore)
    unanswered: int = 0

    def as_json(self) -> dict[str, object]:
        """Plain values for a report."""
        exact = self.category.exact
        return {
            "category_exact": None if np.isnan(exact) else round(exact, 4),
            "questions": self.category.count,
            "unanswered": self.unanswered,
        }


def score_system(
    model: PixelReferLite, tracker: Tracker, scene_seeds: Iterable[int], *, frames: int = CLIP_FRAMES
) -> SystemScores:
    """Drives `Perception` as a camera would and asks for the category of every object at the end.

    Args:
        model: the region language.
        tracker: cleared before every scene.
        scene_seeds: of the scenes; every second one has occluders.
        frames: of a clip.
    """
    scores = SystemScores()
    for place, seed in enumerate(scene_seeds):
        settings = SceneSettings(frames=frames, objects=OBJECTS, occlusion="some" if place % 2 else "none")
        _one_clip(model, tracker, Sight(Renderer(cast_scene(seed, settings))), scores)
    return scores


def _one_clip(model: PixelReferLite, tracker: Tracker, sight: Sight, scores: SystemScores) -> None:
    tracker.clear()
    perception = Perception(model, tracker, PerceptionSettings())
    renderer, last = sight.renderer, sight.scene.frames - 1
    first = renderer.frame(0)
    visible = renderer.layers(0).visible
    numbers = followed(sight)
    ids = {number: perception.add_region(region_of(visible[number], 0, "box"), first) for number in numbers}
    for index in range(sight.scene.frames):
        perception.observe(renderer.frame(index))
    seen = [number for number in ids if sight.recognizable(number, last)]
    answers = perception.answer_together([Question(QUESTION, (ids[number],)) for number in seen])
    for number, answer in zip(seen, answers, strict=True):
        scores.unanswered += answer.status not in (AnswerStatus.OK, AnswerStatus.TRUNCATED)
        combination = sight.scene.objects[number].combination
        truth = frozenset(Fact(slot, value) for slot, value in combination._asdict().items())
        scores.category.add(score(parse(answer.text), truth))
