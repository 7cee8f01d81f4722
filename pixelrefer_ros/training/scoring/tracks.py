# SPDX-License-Identifier: Apache-2.0
"""How well a tracker follows: J on the first frame, J&F over a clip, and after an object was hidden."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from pixelrefer_ros.tracking import Tracker
from pixelrefer_ros.training.scoring.masks import boundary_f, jaccard
from pixelrefer_ros.training.world import (
    Occlusion,
    Prompt,
    Renderer,
    SceneSettings,
    Sight,
    cast_scene,
    region_of,
)
from pixelrefer_ros.types import Mask

CLIP_FRAMES = 60
PROMPTED_SHARE = 0.6
"""Only objects of which so much is seen in the first frame are followed."""
OBJECTS = (1, 4)

CLIPS: dict[str, Occlusion] = {"no occluder": "none", "occluder": "some", "full occlusion": "full"}


@dataclass(slots=True)
class TrackScores:
    """Means are over objects, each weighing the same.

    Attributes:
        first: J on the prompted frame, by kind of prompt.
        clips: J&F over the frames after the prompted one, by kind of clip; of "full occlusion" only the
            frames after the object came back, and only that object.
    """

    first: dict[str, list[float]] = field(default_factory=lambda: {"box": [], "point": []})
    clips: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in CLIPS})

    def as_json(self) -> dict[str, object]:
        """Means and counts."""
        return {
            "first_frame_j": {name: _mean(values) for name, values in self.first.items()},
            "j_and_f": {name: _mean(values) for name, values in self.clips.items()},
        }


def score_tracker(tracker: Tracker, scene_seeds: Iterable[int], *, frames: int = CLIP_FRAMES) -> TrackScores:
    """Follows the objects of every scene in each kind of clip; the tracker is cleared between them.

    Args:
        tracker: what to score.
        scene_seeds: of the scenes; see `pixelrefer_ros.training.world.scene_seeds`.
        frames: of a clip.
    """
    scores = TrackScores()
    for seed in scene_seeds:
        for name, occlusion in CLIPS.items():
            settings = SceneSettings(frames=frames, objects=OBJECTS, occlusion=occlusion)
            sight = Sight(Renderer(cast_scene(seed, settings)))
            if name == "no occluder":
                for prompt in ("point", "box"):  # the box comes last: its objects are then followed
                    scores.first[prompt] += first_frame(tracker, sight, prompt)
            else:
                first_frame(tracker, sight, "box")
            scores.clips[name] += _follow(tracker, sight, only_return=name == "full occlusion")
    tracker.clear()
    return scores


def first_frame(tracker: Tracker, sight: Sight, prompt: Prompt) -> list[float]:
    """Prompts a cleared tracker with every object of a scene's first frame; object i gets the id i + 1.

    Returns:
        J per object.
    """
    tracker.clear()
    truth = sight.renderer.layers(0).visible
    regions = [region_of(truth[number], number + 1, prompt) for number in followed(sight)]
    tracks = tracker.prompt(sight.renderer.frame(0), regions)
    return [jaccard(track.mask, truth[track.object_id - 1]) for track in tracks]


def followed(sight: Sight) -> list[int]:
    """The numbers of the objects that are seen well enough in the first frame to be pointed at."""
    shares = sight.shares[0]
    return [number for number in range(len(sight.scene.objects)) if shares[number] >= PROMPTED_SHARE]


def _follow(tracker: Tracker, sight: Sight, *, only_return: bool) -> list[float]:
    per_object: dict[int, list[float]] = {}
    gone = sight.gone(0)
    returned = int(np.flatnonzero(gone)[-1]) + 1 if gone.any() else sight.scene.frames
    for index, found in _tracked(tracker, sight):
        truth = sight.renderer.layers(index).visible
        for number, mask in found.items():
            if not only_return or (number == 0 and index > returned):
                agreement = (jaccard(mask, truth[number]) + boundary_f(mask, truth[number])) / 2
                per_object.setdefault(number, []).append(agreement)
    return [float(np.mean(values)) for values in per_object.values()]


def _tracked(tracker: Tracker, sight: Sight) -> Iterator[tuple[int, dict[int, Mask]]]:
    for index in range(1, sight.scene.frames):
        tracks = tracker.track(sight.renderer.frame(index))
        yield index, {track.object_id - 1: track.mask for track in tracks}


def _mean(values: list[float]) -> dict[str, float | int | None]:
    return {"mean": round(float(np.mean(values)), 4) if values else None, "objects": len(values)}
