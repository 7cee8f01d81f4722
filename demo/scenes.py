# SPDX-License-Identifier: Apache-2.0
"""What the demo shows: a recording to play, and a script for the agent that asks about it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Protocol

from exam import PLAN, Exam
from pictures import THINGS, MovingCamera, load_photograph

from pixelrefer_ros.offline import write_image_bag
from pixelrefer_ros.training.world import Renderer, SceneSettings, Sight, cast_scene, scene_seeds
from pixelrefer_ros.training.world.vocabulary import DIRECTIONS
from pixelrefer_ros.types import Frame

TOPIC = "/camera/image"

SHAPES = SceneSettings(frames=64, rate_hz=10.0, size=(480, 360), objects=(4, 6), occlusion="full")
"""Scenes in which the first object is wholly hidden for a while and comes back."""
_CANDIDATES, _TIME_TO_ASK = 200, 8

_RATE_HZ = 12.0
_SECONDS = 12.0
_EPOCH_NS = 1_000_000_000_000


class DemoScene(Protocol):
    """What `run.py` plays.

    Attributes:
        name: on the command line.
        title: for people.
        agent: the file in this folder that reads the script.
        pace: how fast it is played; its stamps stay those of full speed.
    """

    name: str
    title: str
    agent: str
    pace: float

    def prepare(self, folder: Path, *, number: int) -> tuple[Path, Path]:
        """Write the recording and the agent's script.

        Args:
            folder: where; an earlier run's files there are replaced.
            number: of the scene; the stamps of a later one are later.

        Returns:
            The bag's folder and the script's file.
        """


@dataclass(frozen=True)
class ShapesScene:
    """A video of the shapes world, and an agent that knows the truth about it.

    Attributes:
        seed: which scene.
        pace: how fast it is played.
    """

    seed: int = 0
    pace: float = 0.5
    name: ClassVar[str] = "shapes"
    title: ClassVar[str] = "a video of the shapes world"
    agent: ClassVar[str] = "examiner.py"

    def prepare(self, folder: Path, *, number: int) -> tuple[Path, Path]:
        """Write the recording and the agent's script; see `DemoScene`."""
        renderer, start_ns = Renderer(cast_scene(find_shapes(self.seed), SHAPES)), _start_ns(number)
        scene = renderer.scene
        frames = [
            replace(renderer.frame(index), stamp_ns=start_ns + round(scene.time_s(index) * 1e9))
            for index in range(scene.frames)
        ]
        return _write(folder, self.name, frames, {"scene_seed": scene.seed, "start_ns": start_ns})


def find_shapes(seed: int) -> int:
    """A scene with enough to ask about: the first such of a user's seed, from the test split.

    Enough: some thing travels, every question of the exam has a clear answer at some time, and that of the
    hiding for long enough that a busy agent does not miss it.

    Raises:
        ValueError: there is none among the first of that seed.
    """
    for scene_seed in scene_seeds("test", seed, _CANDIDATES):
        scene = cast_scene(scene_seed, SHAPES)
        travels = any(thing.motion in DIRECTIONS for thing in scene.objects)
        if len(scene.objects) < SHAPES.objects[0] or not travels:
            continue
        exam = Exam(Sight(Renderer(scene)))
        lasting = len(list(islice(exam.moments(PLAN[0]), _TIME_TO_ASK))) == _TIME_TO_ASK
        if lasting and all(any(True for _ in exam.moments(step)) for step in PLAN):
            return scene_seed
    raise ValueError(f"none of the first {_CANDIDATES} scenes of seed {seed} will do: give another seed")


@dataclass(frozen=True)
class PhotographScene:
    """A photograph that a camera pans and zooms over.

    Attributes:
        name: a photograph of `pictures`.
        questions: as the agent reads them: text, objects, and optionally frames, history_s.
    """

    name: str
    questions: tuple[dict[str, Any], ...]
    title: ClassVar[str] = "a photograph as a moving camera sees it"
    agent: ClassVar[str] = "agent.py"
    pace: ClassVar[float] = 1.0

    def prepare(self, folder: Path, *, number: int) -> tuple[Path, Path]:
        """Write the recording and the agent's script; see `DemoScene`."""
        camera = MovingCamera(load_photograph(self.name), rate_hz=_RATE_HZ, seed=number)
        frames = list(camera.frames(round(_SECONDS * _RATE_HZ), start_ns=_start_ns(number)))
        boxes: dict[str, dict[str, list[int]]] = {}
        for thing, place in THINGS[self.name].items():
            seen = ((frame.stamp_ns, camera.box(i, place)) for i, frame in enumerate(frames))
            boxes[thing] = {
                str(stamp): [box.x, box.y, box.width, box.height] for stamp, box in seen if box is not None
            }
        return _write(folder, self.name, frames, {"boxes": boxes, "questions": self.questions})


def _start_ns(number: int) -> int:
    return (number + 1) * _EPOCH_NS


def _write(folder: Path, name: str, frames: list[Frame], script: dict[str, Any]) -> tuple[Path, Path]:
    bag, path = folder / f"{name}.bag", folder / f"{name}.json"
    shutil.rmtree(bag, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_image_bag(bag, frames, TOPIC)
    path.write_text(json.dumps({"scene": name} | script), encoding="utf-8")
    return bag, path


PHOTOGRAPHS = (
    PhotographScene(
        "coffee",
        (
            {"text": "What is <region>?", "objects": ["cup"]},
            {"text": "Please describe <region> in brief.", "objects": ["cup"]},
            {"text": "What is <region>?", "objects": ["spoon"]},
            {"text": "Which is larger, <region> or <region>?", "objects": ["cup", "spoon"]},
            {"text": "Is <region> moving?", "objects": ["cup"], "frames": 4, "history_s": 2.0},
        ),
    ),
    PhotographScene(
        "cat",
        (
            {"text": "What is <region>?", "objects": ["nose"]},
            {"text": "What is the colour of <region>?", "objects": ["left eye"]},
            {"text": "Is <region> left of <region>?", "objects": ["left eye", "right eye"]},
        ),
    ),
)
