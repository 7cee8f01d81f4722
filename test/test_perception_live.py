# SPDX-License-Identifier: Apache-2.0
"""Perception beside a camera: bounded, cancellable, and never stuck."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from perception_parts import CountingLanguage, box_region, frame, long_question, question, until

from pixelrefer_ros.perception import LivePerception, Perception, PerceptionSettings
from pixelrefer_ros.tracking import StaticTracker
from pixelrefer_ros.types import AnswerStatus, Region


class Gate(StaticTracker):
    """A tracker that works only while its gate is open: a slow one, without sleeping."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()

    def track(self, frame):
        self.entered.set()
        assert self.open.wait(20)
        return super().track(frame)


class Heard:
    def __init__(self):
        self.scenes, self.answers, self.refusals, self.errors = [], [], [], []


@pytest.fixture
def tracker():
    return Gate()


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def start(tiny_model_folder, tracker, heard):
    running = []

    def run(**settings):
        language = CountingLanguage(tiny_model_folder)
        core = Perception(language, tracker, PerceptionSettings(**settings))
        live = LivePerception(
            core,
            on_scene=heard.scenes.append,
            on_answer=heard.answers.append,
            on_refused=heard.refusals.append,
            on_error=heard.errors.append,
        )
        live.start()
        running.append(live)
        return live

    yield run
    tracker.open.set()
    for live in running:
        live.stop()


def see(live, heard, index=0, first_ns=1_000_000_000):
    count = len(heard.scenes)
    live.submit_frame(frame(index, first_ns=first_ns))
    until(lambda: len(heard.scenes) > count)


def begin_to_track(live, tracker, newest):
    """Close the gate, and wait until the tracker stands before it with a frame."""
    tracker.open.clear()
    tracker.entered.clear()
    live.submit_frame(newest)
    assert tracker.entered.wait(20)


def test_frames_regions_and_questions_flow(start, heard):
    live = start()
    see(live, heard)
    object_id = live.perception.add_region(box_region())
    see(live, heard, 1)
    assert [o.track.object_id for o in heard.scenes[-1].objects] == [object_id]
    answer = live.ask(question(object_id, id="a")).wait(30)
    assert answer.tokens > 0 and heard.answers == [answer] and not heard.errors
    assert live.stats()["questions_answered"] == 1
    assert len(live.stats()["stages"]["track"]) == 2


def test_while_tracking_is_slow_only_the_newest_frame_waits(start, heard, tracker):
    live = start()
    see(live, heard)
    begin_to_track(live, tracker, frame(1))
    for i in range(2, 7):
        live.submit_frame(frame(i))
    tracker.open.set()
    until(lambda: len(heard.scenes) == 3)
    assert [scene.frame.stamp_ns for scene in heard.scenes[1:]] == [frame(1).stamp_ns, frame(6).stamp_ns]
    stats = live.stats()
    assert (stats["frames_in"], stats["frames_tracked"], stats["frames_dropped"]) == (7, 3, 4)


def test_adding_and_asking_never_wait_for_the_tracker(start, heard, tracker):
    live = start()
    see(live, heard)
    begin_to_track(live, tracker, frame(1))
    object_id = live.perception.add_region(box_region())  # returns although the tracker is busy
    ticket = live.ask(question(object_id))
    assert live.perception.scene().frame.stamp_ns == frame(0).stamp_ns and ticket.wait(0) is None
    tracker.open.set()
    assert ticket.wait(30).tokens > 0


def test_a_question_is_answered_from_the_frames_before_while_the_next_is_tracked(start, heard, tracker):
    """At 30 Hz, where a remembered frame makes way for the one after it."""
    live = start()
    stamps = [1_000_000_000 + i * 33_000_000 for i in range(6)]
    for index, stamp in enumerate(stamps[:-1]):
        see(live, heard, 0, stamp)
        if index == 3:
            object_id = live.perception.add_region(box_region())
    begin_to_track(live, tracker, frame(0, first_ns=stamps[-1]))
    answer = live.ask(question(object_id)).wait(30)
    assert answer.tokens > 0, answer.error
    assert answer.stamp_ns == stamps[-2]


def test_an_object_pointed_at_while_the_next_frame_is_tracked_is_found_where_it_was_pointed_at(
    start, heard, tracker
):
    """At 30 Hz, where that frame would have made way: the region is taken in after the next one."""
    live = start()
    stamps = [1_000_000_000 + i * 33_000_000 for i in range(5)]
    for stamp in stamps[:-1]:
        see(live, heard, 0, stamp)
    begin_to_track(live, tracker, frame(0, first_ns=stamps[-1]))
    object_id = live.perception.add_region(box_region(stamp_ns=stamps[-2]))
    ticket = live.ask(question(object_id))
    tracker.open.set()
    answer = ticket.wait(30)
    assert answer.tokens > 0, answer.error
    assert answer.stamp_ns == stamps[-2]


def test_a_cancelled_question_stops_and_the_next_is_answered(start, heard):
    live = start()
    see(live, heard)
    object_id = live.perception.add_region(box_region())
    asked, first_text = long_question(live, object_id), threading.Event()
    ticket = live.ask(asked, on_text=lambda *_: first_text.set())
    assert first_text.wait(20)
    ticket.cancel()
    answer = ticket.wait(30)
    assert answer.status is AnswerStatus.CANCELLED and 0 < answer.tokens < 1000
    assert live.ask(question(object_id)).wait(30).tokens > 0


def test_questions_beyond_the_bound_are_refused_and_waiting_ones_can_be_withdrawn(start, heard, tracker):
    live = start(max_questions=2)
    see(live, heard)
    begin_to_track(live, tracker, frame(1))
    object_id = live.perception.add_region(box_region())
    blocked = live.ask(question(object_id))  # waits for the tracker to take its region in
    until(lambda: live.stats()["questions_waiting"] == 0)
    waiting = [live.ask(question(object_id)) for _ in range(2)]
    refused = live.ask(question(object_id)).wait(0)
    assert refused.status is AnswerStatus.OVERLOADED and "max_questions" in refused.error
    waiting[0].cancel()
    assert waiting[0].wait(0).status is AnswerStatus.CANCELLED
    tracker.open.set()
    assert blocked.wait(30).tokens > 0 and waiting[1].wait(30).tokens > 0
    assert len(heard.answers) == 4, "every question is answered exactly once"


def test_stop_cancels_what_runs_and_what_waits(start, heard):
    live = start()
    see(live, heard)
    object_id = live.perception.add_region(box_region())
    asked = long_question(live, object_id)
    tickets = [live.ask(asked) for _ in range(4)]
    assert live.stop(10)
    assert [ticket.wait(0).status for ticket in tickets] == [AnswerStatus.CANCELLED] * 4
    assert live.ask(question(object_id)).wait(0).status is AnswerStatus.CANCELLED


def test_a_question_whose_network_hangs_is_answered_when_the_worker_is_left_behind(start, heard):
    live = start()
    see(live, heard)
    object_id = live.perception.add_region(box_region())
    language, entered, go_on = live.perception._model, threading.Event(), threading.Event()
    encode = language.encode_global

    def hanging(rgb):
        entered.set()
        assert go_on.wait(20)
        return encode(rgb)

    language.encode_global = hanging
    ticket = live.ask(question(object_id))
    assert entered.wait(20)
    assert not live.stop(0.05), "it still computes"
    assert ticket.wait(0).status is AnswerStatus.CANCELLED
    go_on.set()
    assert live.stop(10)
    assert heard.answers == [ticket.wait(0)], "and only once"


def test_a_new_object_is_described_unasked_and_questions_go_first(start, heard):
    live = start(describe_question="Describe <region>.", max_tokens=4)
    see(live, heard)
    object_id = live.perception.add_region(box_region())
    see(live, heard, 1)
    until(lambda: any(a.question.text == "Describe <region>." for a in heard.answers))
    assert live.perception.scene().objects[0].description is not None
    assert live.ask(question(object_id)).wait(30).tokens > 0


def test_track_rate_skips_frames_by_their_stamps(start, heard):
    live = start(track_rate_hz=5.0)
    see(live, heard)
    live.submit_frame(frame(1))  # 0.1 s later
    until(lambda: live.stats()["frames_skipped"] == 1)
    see(live, heard, 2)
    assert [scene.frame.stamp_ns for scene in heard.scenes] == [frame(0).stamp_ns, frame(2).stamp_ns]


def test_track_rate_holds_for_a_camera_that_does_not_stamp(start, heard):
    live = start(track_rate_hz=20.0)
    for _ in range(100):
        live.submit_frame(frame(0, first_ns=0))
        time.sleep(0.005)
    stats = live.stats()
    assert stats["frames_skipped"] > 0 and 2 <= stats["frames_tracked"] <= 100 - stats["frames_skipped"]


def test_a_frame_that_is_tracked_after_the_stop_is_told_to_nobody(start, heard, tracker):
    live = start()
    see(live, heard)
    begin_to_track(live, tracker, frame(1))
    assert not live.stop(0.05), "it still computes"
    tracker.open.set()
    assert live.stop(10)
    assert len(heard.scenes) == 1


def test_a_region_that_cannot_be_taken_in_is_told_apart_from_faults(start, heard):
    live = start()
    see(live, heard)
    clicks = Region(points=np.array([[10, 10]], np.float32), point_labels=np.array([1], np.int32))
    object_id = live.perception.add_region(clicks)
    see(live, heard, 1)
    assert f"object {object_id} was refused: " in heard.refusals[0] and "points need" in heard.refusals[0]
    assert not heard.errors


def test_how_long_the_tracker_has_been_at_a_frame_is_known(start, heard, tracker):
    live = start()
    begin_to_track(live, tracker, frame(0))
    until(lambda: live.stats()["tracking_for_s"] > 0.05)
    tracker.open.set()
    until(lambda: live.stats()["tracking_for_s"] == 0)


def test_a_fault_that_comes_at_every_frame_leaves_one_trace(start, heard, tracker, monkeypatch, caplog):
    def broken(_frame):
        raise RuntimeError("no memory")

    monkeypatch.setattr(tracker, "track", broken)
    live = start()
    for index in range(4):
        live.submit_frame(frame(index))
        until(lambda count=index + 1: len(heard.errors) == count)
    assert sum(record.exc_info is not None for record in caplog.records) == 1


def test_a_failing_frame_or_listener_is_reported_and_ends_nothing(start, heard, tracker, monkeypatch):
    live = start()

    def broken(_frame):
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(tracker, "track", broken)
        live.submit_frame(frame(0))
        until(lambda: heard.errors)
    assert "no memory" in heard.errors[0] and str(frame(0).stamp_ns) in heard.errors[0]
    assert live.stats()["frames_failed"] == 1
    see(live, heard, 1)
    object_id = live.perception.add_region(box_region())
    failing = live.ask(question(object_id), on_answer=lambda answer: 1 / 0)
    assert failing.wait(30) is not None
    until(lambda: len(heard.errors) == 2)
    assert live.ask(question(object_id)).wait(30).tokens > 0
