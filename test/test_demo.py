# SPDX-License-Identifier: Apache-2.0
"""The demo is the main job, end to end: bag, camera, node, agent and recorder, each a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("pixelrefer_ros.msg")
pytest.importorskip("skimage")
import av

from pixelrefer_ros.offline import read_frames

pytestmark = [pytest.mark.ros, pytest.mark.slow]
_ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.timeout(240)
def test_every_question_is_answered_about_an_image_that_the_camera_played(tmp_path):
    command = [sys.executable, str(_ROOT / "demo" / "run.py"), "--out", str(tmp_path), "--scenes", "cat"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr

    script = json.loads((tmp_path / "scenes" / "cat.json").read_text())
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [a["question"] for a in answers] == [q["text"] for q in script["questions"]]
    assert [a["objects"] for a in answers] == [q["objects"] for q in script["questions"]]
    played = {frame.stamp_ns for frame in read_frames(tmp_path / "scenes" / "cat.bag", "/camera/image")}
    for answer in answers:
        assert answer["status"] in ("OK", "TRUNCATED") and answer["tokens"] > 0
        assert answer["stamp_ns"] in played and set(answer["frame_stamps_ns"]) <= played
        assert f"object {answer['object_ids'][0]}" in done.stdout, "the agent prints the id with the answer"
    names = {name: i for a in answers for name, i in zip(a["objects"], a["object_ids"], strict=True)}
    assert len(set(names.values())) == len(names), "each thing is an object of its own"

    with av.open(str(tmp_path / "overlay.mp4")) as video:
        pictures = sum(1 for _ in video.decode(video=0))
    assert pictures >= 10  # of 144 played: the node may drop frames on a busy machine, never most of a second
    assert (tmp_path / "overlay.png").stat().st_size > 0
