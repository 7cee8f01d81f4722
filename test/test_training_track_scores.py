# SPDX-License-Identifier: Apache-2.0
"""Scores of trackers, and of the whole system: known cases with trackers that have no model."""

from __future__ import annotations

import numpy as np
import pytest

from pixelrefer_ros.model import PixelReferLite, write_tiny_checkpoint
from pixelrefer_ros.tracking import StaticTracker
from pixelrefer_ros.training.scoring import score_system, score_tracker
from pixelrefer_ros.training.scoring.tracks import first_frame
from pixelrefer_ros.training.world import Renderer, SceneSettings, Sight, cast_scene, region_of, scene_seeds
from pixelrefer_ros.types import Track, TrackState

SMALL = SceneSettings(frames=16, size=(320, 240))

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_tracker_that_stands_still_is_scored_by_its_boxes():
    calm = SceneSettings(frames=4, size=(320, 240), objects=(2, 3), occlusion="none", motions=("still",))
    sight = Sight(Renderer(cast_scene(9, calm)))
    tracker = StaticTracker()
    found = first_frame(tracker, sight, "box")
    for number, score in enumerate(found):
        box, area = sight.box(number, 0), int(sight.pixels[0, number])
        assert score == pytest.approx(area / (box.width * box.height))


def test_a_point_prompt_lies_on_the_object():
    for shape in range(6):
        mask = Renderer(cast_scene(shape, SMALL)).layers(0).visible[0]
        column, row = region_of(mask, 1, "point").points[0].astype(int)
        assert mask[row, column]


def test_static_clips_score_between_nothing_and_all():
    class BoxTracker(StaticTracker):
        def prompt(self, frame, regions):
            return super().prompt(frame, [region for region in regions if region.box is not None])

    scores = score_tracker(BoxTracker(), scene_seeds("val", 2, 2), frames=24)
    assert scores.first["point"] == []
    means = [value for values in scores.clips.values() for value in values]
    assert len(means) >= 3
    assert 0.0 < np.mean(means) < 1.0


def recognizable_at_the_end(seed: int, frames: int, occlusion: str) -> int:
    """Objects seen to six tenths in the first frame, and to seven tenths, of 80 px at least, in the last."""
    renderer = Renderer(cast_scene(seed, SceneSettings(frames=frames, objects=(1, 4), occlusion=occlusion)))
    first, last = renderer.layers(0), renderer.layers(frames - 1)
    return sum(
        first.fraction(number) >= 0.6 and last.fraction(number) >= 0.7 and last.visible[number].sum() >= 80
        for number in range(len(renderer.scene.objects))
    )


class LosingTracker(StaticTracker):
    """Loses everything at once."""

    def track(self, frame):
        nowhere = np.zeros(frame.rgb.shape[:2], np.bool_)
        return [Track(number, TrackState.LOST, 0.0, nowhere, None, 0) for number in self.object_ids]


def test_the_whole_system_is_asked_about_every_recognisable_object(tmp_path):
    model = PixelReferLite.from_pretrained(write_tiny_checkpoint(tmp_path))
    seeds = scene_seeds("val", 5, 2)
    asked = sum(
        recognizable_at_the_end(seed, 6, mode) for seed, mode in zip(seeds, ("none", "some"), strict=True)
    )
    assert asked >= 2
    followed = score_system(model, StaticTracker(), seeds, frames=6)
    assert (followed.category.count, followed.unanswered) == (asked, 0)
    lost = score_system(model, LosingTracker(), seeds, frames=6)
    assert (lost.category.count, lost.category.correct, lost.unanswered) == (asked, 0, asked)
