# SPDX-License-Identifier: Apache-2.0
"""Watching a tracker in training: scored on validation scenes as the finished one is on test scenes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from transformers import Sam2VideoModel

from pixelrefer_ros.tracking import StreamTracker
from pixelrefer_ros.training.scoring.tracks import (
    CLIP_FRAMES,
    OBJECTS,
    TrackScores,
    first_frame,
    score_tracker,
)
from pixelrefer_ros.training.validation import SCORE
from pixelrefer_ros.training.world import Renderer, SceneSettings, Sight, cast_scene, scene_seeds


class TrackerValidation:
    """J of the prompted frame, and J&F of clips, on fixed validation scenes.

    Args:
        pictures: scenes whose first frame is prompted.
        clips: scenes that are followed, in each kind of clip; 0: none.
        frames: of a clip.
        seed: which scenes of the validation split.
    """

    def __init__(
        self, *, pictures: int = 48, clips: int = 0, frames: int = CLIP_FRAMES, seed: int = 0
    ) -> None:
        self._pictures, self._clips, self._frames, self._seed = pictures, clips, frames, seed

    def __call__(self, model: Sam2VideoModel) -> dict[str, float]:
        """J by prompt, J&F by kind of clip, and as `SCORE` the mean of them all."""
        training = model.training
        tracker = StreamTracker(model.eval())
        scores = score_tracker(tracker, self._seeds(self._clips), frames=self._frames)
        scores.first = {"box": [], "point": []}  # of more scenes than are followed
        self._first_frames(tracker, scores, self._seeds(self._pictures))
        model.train(training)
        values = {
            name: fmean(found) for name, found in {**scores.first, **scores.clips}.items() if len(found)
        }
        return {SCORE: fmean(values.values()), **values}

    def _seeds(self, count: int) -> list[int]:
        return scene_seeds("val", self._seed, count)

    def _first_frames(self, tracker: StreamTracker, scores: TrackScores, seeds: Sequence[int]) -> None:
        settings = SceneSettings(frames=self._frames, objects=OBJECTS, occlusion="none")
        for seed in seeds:
            sight = Sight(Renderer(cast_scene(seed, settings)))
            scores.first["box"] += first_frame(tracker, sight, "box")
            scores.first["point"] += first_frame(tracker, sight, "point")
        tracker.clear()
