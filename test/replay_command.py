# SPDX-License-Identifier: Apache-2.0
"""A recorded square that moves right, and `pixelrefer replay` over it, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from perception_parts import PERIOD_NS, frame
from rosbags.rosbag2 import Writer

from pixelrefer_ros.cli import main
from pixelrefer_ros.offline.bags import IMAGE, ros_types

TOPIC = "/camera/image"
FRAMES = 8
REGIONS = [
    {"id": "square", "box": [8, 20, 20, 20]},
    {"id": "corner", "frame": 3, "points": [[50, 30, 1], [2, 2, 0]]},
    {"id": "square", "frame": 5, "box": [13, 20, 20, 20]},
]
QUESTIONS = [
    {"text": "What is <region>?", "objects": ["square"], "max_tokens": 4},
    {
        "id": "both",
        "text": "Is <region> <region>?",
        "objects": [1, 2],
        "frame": 4,
        "frames": 2,
        "history_s": 1,
    }
    | {"max_tokens": 3},
    {"id": "again", "text": "And now?", "objects": ["square"], "every_s": 0.3, "max_tokens": 2},
]


def record(folder: Path, taken: list[int], broken: int = -1) -> Path:
    """A bag with frames of the moving square in any order; one, by its place, may be a byte too short."""
    types = ros_types().types
    with Writer(folder, version=9) as writer:
        connection = writer.add_connection(TOPIC, IMAGE, typestore=ros_types())
        for place, shot in enumerate(map(frame, taken)):
            stamp = types["builtin_interfaces/msg/Time"](*divmod(shot.stamp_ns, 10**9))
            header = types["std_msgs/msg/Header"](stamp, shot.frame_id)
            data = shot.rgb.reshape(-1)[: -1 if place == broken else None]
            message = types[IMAGE](header, 64, 96, "rgb8", 0, 288, data)
            writer.write(connection, place * PERIOD_NS, ros_types().serialize_cdr(message, IMAGE))
    return folder


class Replay:
    """The command, with inputs a test can change."""

    def __init__(self, folder: Path, bag: Path) -> None:
        self.folder, self.bag = folder, bag
        self.regions: list[dict] = REGIONS
        self.questions: list[dict] = QUESTIONS
        self.options = ["--model", "tiny-random", "--tracker-model", "tiny-random"]

    def __call__(self, *options: str, out: str = "out/answers.jsonl") -> tuple[int, list[dict]]:
        """Run it: exit status and lines."""
        for name in ("regions", "questions"):
            (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(getattr(self, name)))
        files = [
            "--regions",
            str(self.folder / "regions.yaml"),
            "--questions",
            str(self.folder / "questions.yaml"),
        ]
        where = ["replay", str(self.bag), "--image-topic", TOPIC, "--out", str(self.folder / out)]
        status = main([*where, *files, *self.options, *options])
        path = self.folder / out
        return status, [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
