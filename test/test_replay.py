# SPDX-License-Identifier: Apache-2.0
"""Replay: the same perception over a recording, every frame in order, the same bytes every time."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from exported_models import exported_tiny
from perception_parts import PERIOD_NS, frame
from replay_command import FRAMES, QUESTIONS, REGIONS, TOPIC, Replay, record

from pixelrefer_ros.errors import ParameterError
from pixelrefer_ros.model_source import load_perception
from pixelrefer_ros.offline import write_image_bag
from pixelrefer_ros.offline.files import QuestionEntry, When
from pixelrefer_ros.offline.schedule import Schedule
from pixelrefer_ros.parameters import check_parameters
from pixelrefer_ros.tracking import StateRules
from pixelrefer_ros.types import Box, Question, Region

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bag(tmp_path_factory) -> Path:
    """A square that moves right, 10 Hz."""
    return write_image_bag(tmp_path_factory.mktemp("bag") / "mcap", map(frame, range(FRAMES)), TOPIC)


@pytest.fixture
def replay(tmp_path, bag) -> Replay:
    """The command on the moving square."""
    return Replay(tmp_path, bag)


def test_questions_are_asked_when_they_are_due_and_answered_for_that_frame(replay):
    _, lines = replay()
    asked = [(line["question_id"], line["frame"]) for line in lines]
    assert asked == [("again", 0), ("again", 3), ("both", 4), ("again", 6), ("q1", FRAMES - 1)]
    for line in lines:
        assert line["kind"] == "answer"
        assert line["status"] in ("OK", "TRUNCATED")
        assert line["stamp_ns"] == line["frame_stamps_ns"][-1] == frame(line["frame"]).stamp_ns
        assert line["frame_id"] == "camera_optical_frame"
        assert "untrained" in line["model"]
        assert line["timing"]["total_time_s"] >= line["timing"]["time_to_first_token_s"] > 0
        assert line["tokens"] <= line["max_tokens"]
    both = lines[2]
    assert both["object_ids"] == [1, 2]
    assert [thing["name"] for thing in both["objects"]] == ["square", "corner"]
    assert both["frame_stamps_ns"] == [frame(3).stamp_ns, frame(4).stamp_ns], "seen together from frame 3 on"


def test_two_runs_are_byte_identical_whatever_the_storage(replay, tmp_path):
    replay("--no-timing", out="first.jsonl")
    first = (tmp_path / "first.jsonl").read_bytes()
    replay("--no-timing", out="second.jsonl")
    replay.bag = write_image_bag(tmp_path / "sqlite3", map(frame, range(FRAMES)), TOPIC, "sqlite3")
    replay("--no-timing", out="third.jsonl")
    assert first == (tmp_path / "second.jsonl").read_bytes() == (tmp_path / "third.jsonl").read_bytes()
    assert len(first.splitlines()) == 5
    assert b"timing" not in first


def test_when_an_object_is_lost_and_searched_for_is_a_setting():
    named = {"model": "tiny-random", "tracker_model": "tiny-random"}

    def rules(**settings):
        return load_perception(check_parameters({**named, **settings}))._tracker._session._rules

    assert rules() == StateRules()
    assert rules(lost_after_frames=3, find_again_score=0.75) == StateRules(
        lost_after_frames=3, find_again_score=0.75
    )
    assert rules(lost_after=2.5) == StateRules(lost_after_s=2.5)
    with pytest.raises(ParameterError, match=r"find_again_score: 0\.2"):
        rules(find_again_score=0.2)


def test_without_tracking_as_many_objects_are_held_as_the_setting_says():
    named = {"model": "tiny-random", "tracker_model": "none", "max_objects": 20}
    perception = load_perception(check_parameters(named))
    perception.on_refused = lambda _, error: pytest.fail(str(error))
    for _ in range(20):
        perception.add_region(Region(box=Box(1, 1, 5, 5)), frame(0))
    assert len(perception.observe(frame(0)).objects) == 20


def test_boxes_and_answers_equal_those_of_perception_driven_by_hand(replay):
    _, lines = replay("--no-timing")
    perception = load_perception(check_parameters({"model": "tiny-random", "tracker_model": "tiny-random"}))
    boxes, scores, texts = [], [], []
    for index in range(FRAMES):
        now = frame(index)
        if index == 0:
            square = perception.add_region(Region(box=Box(8, 20, 20, 20), label="square"), now)
        if index == 3:
            points, labels = np.array([[50, 30], [2, 2]], np.float32), np.array([1, 0], np.int32)
            perception.add_region(Region(points=points, point_labels=labels, label="corner"), now)
        if index == 5:
            perception.add_region(Region(box=Box(13, 20, 20, 20), object_id=square), now)
        scene = perception.observe(now)
        if index in (0, 3, 6):
            texts.append(perception.answer(Question("And now?", (square,), max_tokens=2)).text)
            track = scene.objects[0].track
            scores.append(track.score)
            boxes.append(track.box and [track.box.x, track.box.y, track.box.width, track.box.height])
    again = [line for line in lines if line["question_id"] == "again"]
    assert [line["text"] for line in again] == texts
    assert [line["objects"][0]["box"] for line in again] == boxes
    assert [line["objects"][0]["score"] for line in again] == scores


@pytest.mark.timeout(600)  # an export, on a busy machine
def test_an_exported_model_gives_the_answers_of_its_checkpoint_and_says_what_runs_it(
    replay, tmp_path_factory, capsys
):
    replay.questions = [question | {"max_tokens": 12} for question in QUESTIONS]
    answers, said = [], []
    for folder in exported_tiny(tmp_path_factory, opset=20):
        replay.options = ["--model", str(folder), "--tracker-model", "tiny-random"]
        _, lines = replay("--no-timing")
        answers.append(
            [{key: line[key] for key in ("question_id", "status", "text", "tokens")} for line in lines]
        )
        said.append(
            next(line for line in capsys.readouterr().err.splitlines() if "running the model" in line)
        )
    checkpoint, exported = answers
    assert exported == checkpoint and len(exported) == 5
    assert len({line["text"] for line in exported} - {""}) > 1, "answers that are all alike prove little"
    assert "the model on torch cpu float32 (auto: " in said[0] and "pixelrefer export" in said[0]
    assert "the model on onnxruntime cpu fp32 (auto: " in said[1] and "the tracker on torch" in said[1]


def test_what_the_recording_is_too_short_for_is_told(replay):
    replay.regions = [*REGIONS, {"id": "late", "frame": 100, "box": [1, 1, 9, 9]}]
    replay.questions = [{"text": "What is <region>?", "objects": ["square"], "at": 50}]
    status, lines = replay()
    assert status == 1
    assert [(line["kind"], line["status"]) for line in lines] == [
        ("region", "NO_FRAME"),
        ("answer", "NO_FRAME"),
    ]
    assert "frame 100" in lines[0]["error"]
    assert "50 s after the first frame" in lines[1]["error"]


def test_without_questions_everything_is_ok(replay):
    replay.questions = []
    assert replay() == (0, [])


def test_a_question_not_ok_is_told_by_the_exit_status(replay):
    replay.questions = [{"text": "<region> <region>?", "objects": ["square"]}]
    status, (line,) = replay()
    assert status == 1
    assert line["status"] == "BAD_QUESTION"


def test_max_frames_stops_early(replay):
    _, lines = replay("--max-frames", "2")
    assert lines[-1]["frame"] == 1


def test_a_broken_image_is_told_and_the_others_are_used(replay, tmp_path, capsys):
    replay.bag = record(tmp_path / "broken", [0, 1, 2, 3], broken=1)
    replay.regions = REGIONS[:1]
    replay.questions = [{"text": "What is <region>?", "objects": ["square"], "max_tokens": 2, "frame": 1}]
    _, (line,) = replay()
    assert line["frame"] == 2, "the first readable image at or after the one asked for"
    assert "image 1 is skipped" in capsys.readouterr().err


def test_images_that_come_twice_or_late_change_no_answer_and_are_counted(replay, tmp_path, capsys):
    looking_back = {
        "text": "What happens?",
        "objects": ["square"],
        "frames": 8,
        "history_s": 5,
        "max_tokens": 8,
    }
    replay.regions, replay.questions = REGIONS[:1], [looking_back]
    answers = []
    for name, taken in (("even", [0, 1, 2, 3, 4, 5]), ("uneven", [0, 1, 1, 2, 3, 2, 4, 5, 5])):
        replay.bag = record(tmp_path / name, taken)
        answers += replay("--no-timing")[1]
    even, uneven = answers
    assert uneven == even | {"frame": 7}, "where the sixth of them lies in the recording"
    assert uneven["frame_stamps_ns"] == [frame(index).stamp_ns for index in range(6)]
    said = capsys.readouterr()
    assert "6 frames, 0 images skipped" in said.out and "6 frames, 3 images skipped" in said.out
    assert "image 2 is skipped: its stamp, 1100000000 ns, is that of the newest image before it" in said.err


def test_a_clock_set_back_is_told_and_questions_are_asked_on(replay, tmp_path, capsys):
    replay.bag = record(tmp_path / "again", [20, 21, 22, 23, 0, 1, 2, 3])
    replay.regions = REGIONS[:1]
    ask = {"text": "And now?", "objects": ["square"], "max_tokens": 2}
    replay.questions = [ask | {"id": "again", "every_s": 0.2}, ask | {"id": "once", "at": 0.5}]
    _, lines = replay()
    asked = [(line["question_id"], line["frame"]) for line in lines]
    # From frame 3 to 4 no time is known to pass: 0.2 s after frame 2 is frame 5, 0.5 s after 0 is frame 6.
    assert asked == [("again", 0), ("again", 2), ("again", 5), ("once", 6), ("again", 7)]
    assert "image 4 is 2.3 s earlier than the one before: the clock was set back" in capsys.readouterr().err


def test_a_recording_that_breaks_off_is_replayed_up_to_there_and_exit_status_1(replay, tmp_path, capsys):
    folder = write_image_bag(tmp_path / "torn", map(frame, range(20)), TOPIC, "sqlite3")
    (file,) = folder.glob("*.db3")
    raw, page = bytearray(file.read_bytes()), 4096
    middle = (
        len(raw) // 2 // page * page
    )  # a page within an image, which names the next one: none such exists
    raw[middle : middle + page] = b"\xa5" * page
    file.write_bytes(raw)
    replay.bag, replay.regions, replay.questions = folder, REGIONS[:1], QUESTIONS[:1]
    status, lines = replay()
    (answer,) = lines
    assert (answer["question_id"], answer["status"]) == ("q1", "OK") and 5 < answer["frame"] < 15
    read = f"{answer['frame'] + 1} frames"
    said = capsys.readouterr()
    assert status == 1 and f"{read}, 0 images skipped" in said.out
    assert f"the recording breaks off after {read}: bag {folder} cannot be read" in said.err
    assert f"sqlite3 {file} .recover | sqlite3 recovered.db3" in said.err


@pytest.mark.parametrize("name", ["overlay.mp4", "overlay.gif"])
def test_the_overlay_shows_every_frame_and_holds_the_last(replay, tmp_path, name):
    replay("--overlay", str(tmp_path / name))
    with av.open(str(tmp_path / name)) as video:
        shown = [(picture.time, picture.to_ndarray(format="rgb24")) for picture in video.decode(video=0)]
    period_s = PERIOD_NS / 1e9
    expected = [index * period_s for index in range(FRAMES)] + [(FRAMES - 1) * period_s + 2]
    assert [time for time, _ in shown] == pytest.approx(expected, abs=0.006)  # a gif counts in 0.01 s
    assert shown[0][1].shape == (64, 96, 3)
    assert (shown[0][1] != frame(0).rgb).mean() > 0.1, "masks and captions are drawn"


BAD_INPUT = [
    (["--image-topic", "/nothing"], f"image topics: {TOPIC}"),
    (["--regions", "nothing.yaml"], "nothing.yaml"),
    (["--overlay", "x.avi"], ".mp4 or .gif"),
    (["--model", ""], "no --model is given; pass a folder"),
    (["--tracker-model", ""], "`none` for no tracking"),
    (["--model", "/no/such/folder"], "/no/such/folder"),
    (["--tracker-model", "no-such-shipped-model"], "no-such-shipped-model"),
    (["--device", "tpu"], "tpu"),
    (["--out", "/dev/null/x"], "/dev/null/x"),
]


@pytest.mark.parametrize(("options", "named"), BAD_INPUT)
def test_bad_input_is_one_line_and_exit_status_2(replay, capsys, monkeypatch, tmp_path, options, named):
    monkeypatch.chdir(tmp_path)
    status, _ = replay(*options)
    error = capsys.readouterr().err
    told = [line for line in error.splitlines() if "random weights" not in line]
    assert status == 2
    assert len(told) == 1
    assert named in told[0]


@pytest.mark.parametrize("name", ["a.mcap", "a.db3"])
def test_a_broken_bag_is_exit_status_2(replay, tmp_path, capsys, name):
    replay.bag = tmp_path / name
    replay.bag.write_bytes(b"no recording")
    assert replay()[0] == 2
    assert name in capsys.readouterr().err


def entry(**fields: object) -> QuestionEntry:
    """A question of the file."""
    return QuestionEntry(1, "q1", "What?", ("square",), **fields)  # type: ignore[arg-type]


def asked_at(question: QuestionEntry, stamps: list[int]) -> list[int]:
    """The stamps at which it is due."""
    schedule = Schedule([], [question])
    return [stamp for index, stamp in enumerate(stamps) if schedule.questions_due(index, stamp)]


def test_a_repeated_question_keeps_its_beat_and_never_catches_up():
    question = entry(when=When(frame=0), every_ns=100)
    assert asked_at(question, [1000, 1090, 1110, 1200, 1290, 1300]) == [1000, 1110, 1200, 1300]
    assert asked_at(question, [1000, 1550, 1560, 1600]) == [1000, 1550, 1600], "a gap asks once"


def test_a_clock_set_back_keeps_the_beat_of_a_repeated_question():
    question = entry(when=When(frame=0), every_ns=100)
    assert asked_at(question, [9000, 9090, 1000, 1009, 1010, 1110]) == [9000, 1010, 1110]


def test_a_question_without_repetition_is_asked_once():
    assert asked_at(entry(when=When(after_ns=150)), [1000, 1100, 1200, 1300]) == [1200]
    assert asked_at(entry(), [1000, 1100]) == []
