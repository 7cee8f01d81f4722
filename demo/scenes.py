# SPDX-License-Identifier: Apache-2.0
"""What the demo shows: a recording to play, and what the agent points at and asks."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pictures import THINGS, MovingCamera, load_photograph

from pixelrefer_ros.offline import write_image_bag

TOPIC = "/camera/image"
_RATE_HZ = 12.0
_SECONDS = 12.0
_EPOCH_NS = 1_000_000_000_000


@dataclass(frozen=True)
class PhotographScene:
    """A photograph that a camera pans and zooms over.

    Attributes:
        name: a photograph of `pictures`.
        questions: as the agent reads them: text, objects, and optionally frames, history_s, max_tokens.
    """

    name: str
    questions: tuple[dict[str, Any], ...]

    def prepare(self, folder: Path, *, number: int) -> tuple[Path, Path]:
        """Write the recording and the agent's script.

        Args:
            folder: where; an earlier run's files there are replaced.
            number: of the scene; the stamps of a later one are later.

        Returns:
            The bag's folder and the script's file.
        """
        bag, script = folder / f"{self.name}.bag", folder / f"{self.name}.json"
        shutil.rmtree(bag, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        camera = MovingCamera(load_photograph(self.name), rate_hz=_RATE_HZ, seed=number)
        frames = list(camera.frames(round(_SECONDS * _RATE_HZ), start_ns=(number + 1) * _EPOCH_NS))
        write_image_bag(bag, frames, TOPIC)
        boxes: dict[str, dict[str, list[int]]] = {}
        for thing, place in THINGS[self.name].items():
            seen = ((frame.stamp_ns, camera.box(i, place)) for i, frame in enumerate(frames))
            boxes[thing] = {
                str(stamp): [box.x, box.y, box.width, box.height] for stamp, box in seen if box is not None
            }
        script.write_text(
            json.dumps({"scene": self.name, "boxes": boxes, "questions": self.questions}), encoding="utf-8"
        )
        return bag, script


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
