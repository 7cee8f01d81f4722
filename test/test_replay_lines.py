# SPDX-License-Identifier: Apache-2.0
"""The lines of ``answers.jsonl``: each as soon as it can be, in the order of the files, none lost."""

from __future__ import annotations

import pytest
from perception_parts import frame
from replay_command import FRAMES, REGIONS, TOPIC, Replay

from pixelrefer_ros.errors import EmptyRegion
from pixelrefer_ros.offline import write_image_bag
from pixelrefer_ros.offline.told_in_order import ToldInOrder

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    """A square that moves right, 10 Hz."""
    return write_image_bag(tmp_path_factory.mktemp("bag") / "mcap", map(frame, range(FRAMES)), TOPIC)


@pytest.fixture
def replay(tmp_path, bag) -> Replay:
    """The command on the moving square."""
    return Replay(tmp_path, bag)


def test_a_refused_region_is_a_line_and_questions_about_it_say_so(replay, capsys):
    replay.regions = [
        {"id": "gone", "box": [500, 20, 20, 20]},
        {"id": "flat", "box": [5, 20, 0, 20]},
        {"id": "square", "box": [8, 20, 20, 20]},
    ]
    replay.questions = [
        {"text": "What is <region>?", "objects": [name], "max_tokens": 2}
        for name in ("gone", "flat", "square")
    ]
    status, lines = replay()
    assert status == 1
    refused, answers = lines[:2], lines[2:]
    assert [(line["kind"], line["name"], line["region"], line["status"]) for line in refused] == [
        ("region", "gone", 1, "EMPTY_REGION"),
        ("region", "flat", 2, "EMPTY_REGION"),
    ]
    assert [line["status"] for line in answers[:2]] == ["NO_SUCH_OBJECT"] * 2
    assert "500" in answers[0]["error"]
    assert answers[0]["object_ids"] == [0]
    assert answers[2]["tokens"] > 0
    assert "EMPTY_REGION" in capsys.readouterr().err


def test_a_region_that_only_the_tracker_refuses_is_a_line_too(replay):
    replay.options = ["--model", "tiny-random", "--tracker-model", "none"]
    replay.questions = [{"text": "What is <region>?", "objects": ["corner"]}]
    status, lines = replay()
    assert status == 1
    assert [(line["kind"], line["status"]) for line in lines] == [
        ("region", EmptyRegion.status.name),
        ("answer", "NO_SUCH_OBJECT"),
    ]


def test_of_two_regions_with_one_name_only_the_one_that_is_wrong_is_refused(replay):
    replay.options = ["--model", "tiny-random", "--tracker-model", "none"]
    points = {"id": "thing", "points": [[50, 30, 1]]}  # without a tracker there is no mask of a point
    box = {"id": "thing", "box": [8, 20, 20, 20]}
    replay.questions = [{"text": "What is <region>?", "objects": ["thing"], "max_tokens": 2}]
    for regions, wrong in (([points, box], 1), ([box, points], 2)):
        replay.regions = regions
        status, lines = replay()
        assert status == 1
        assert [line["region"] for line in lines if line["kind"] == "region"] == [wrong]
        assert lines[-1]["tokens"] > 0, "the other region began the object"


def test_an_answer_is_written_before_the_next_question_of_its_frame_is_answered(replay, monkeypatch):
    from pixelrefer_ros.model import PixelReferLite

    replay.regions = REGIONS[:1]
    replay.questions = [
        {"text": f"{word} is <region>?", "objects": ["square"], "max_tokens": 2} for word in ("What", "Where")
    ]
    request = PixelReferLite.request

    def interrupted(model, text, *args, **kwargs):
        if text.startswith("Where"):
            raise KeyboardInterrupt
        return request(model, text, *args, **kwargs)

    monkeypatch.setattr(PixelReferLite, "request", interrupted)
    status, lines = replay("-p", "max_batch:=1")
    assert status == 130
    assert [line["question"] for line in lines] == ["What is <region>?"]


def test_a_disk_that_fills_up_is_told_though_questions_wait(replay, monkeypatch, capsys):
    from pixelrefer_ros.offline import replay as verb

    def full(record):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(verb, "line", full)
    status, lines = replay()
    assert (status, lines) == (2, [])
    assert "No space left on device" in capsys.readouterr().err


def test_items_are_told_in_order_each_as_soon_as_it_can_be():
    told = []
    lines = ToldInOrder(lambda place, item: told.append((place, item)))
    lines.put(1, "b")
    assert told == []
    lines.put(0, "a")
    assert told == [(0, "a"), (1, "b")]
    lines.put(4, "e")
    lines.put(3, "d")
    lines.finish()
    assert told == [(0, "a"), (1, "b"), (3, "d"), (4, "e")]


def test_the_first_failure_waits_for_the_end_and_nothing_more_is_told():
    told = []

    def fail(place, item):
        told.append(place)
        raise OSError(item)

    lines = ToldInOrder(fail)
    lines.put(0, "first")
    lines.put(1, "second")
    assert lines.has_failed()
    with pytest.raises(OSError, match="first"):
        lines.finish()
    assert told == [0]
