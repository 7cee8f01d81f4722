# SPDX-License-Identifier: Apache-2.0
"""Questions that wait are answered together: each as alone, and none waits for another's end."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from perception_parts import CountingLanguage, box_region, frame, long_question, question, until

from pixelrefer_ros.errors import BackendError, ParameterError
from pixelrefer_ros.perception import LivePerception, Perception, PerceptionSettings
from pixelrefer_ros.perception.answering import Asked
from pixelrefer_ros.tracking import StaticTracker
from pixelrefer_ros.types import AnswerStatus


class WatchedLanguage(CountingLanguage):
    """Notes which questions are in work when a token comes; may be held up, and may fail."""

    def __init__(self, folder):
        super().__init__(folder)
        self.go_on = threading.Event()
        self.go_on.set()
        self.most, self.fault = 0, None
        self.bounds = []

    def generate_together(self, waiting, *, max_batch):
        in_work = set()
        self.bounds.append(max_batch)

        def noted():
            request = waiting()
            in_work.update([request] if request is not None else [])
            return request

        for request, token in super().generate_together(noted, max_batch=max_batch):
            assert self.go_on.wait(20)
            self.most = max(self.most, len(in_work))
            if self.fault is not None and len(in_work) == 2:
                fault, self.fault = self.fault, None
                raise fault
            if token.finish is not None:
                in_work.discard(request)
            yield request, token


@pytest.fixture
def language(tiny_model_folder):
    return WatchedLanguage(tiny_model_folder)


@pytest.fixture
def core(language):
    return Perception(language, StaticTracker())


@pytest.fixture
def start(language):
    running = []

    def run(**settings):
        core = Perception(language, StaticTracker(), PerceptionSettings(**settings))
        answers = []
        live = LivePerception(
            core,
            on_scene=lambda _: None,
            on_answer=answers.append,
            on_refused=pytest.fail,
            on_error=pytest.fail,
        )
        core.observe(frame(0))
        objects = [live.perception.add_region(box_region(x)) for x in (8, 40)]
        core.apply_regions()
        live.start()
        running.append(live)
        return live, objects, answers

    yield run
    language.go_on.set()
    for live in running:
        live.stop()


def asked_at_once(live, language, questions):
    """Tickets of questions that all wait when the first is answered."""
    language.go_on.clear()
    tickets = [live.ask(one) for one in questions]
    language.go_on.set()
    return tickets


def test_answers_together_are_those_of_one_at_a_time(core, language):
    core.observe(frame(0))
    objects = [core.add_region(box_region(x)) for x in (8, 30, 50)]
    asked = [
        question(object_id, text=text, max_tokens=tokens)
        for object_id in objects
        for text, tokens in (("What is <region>?", 20), ("Is it red? Say why.", 7))
    ]
    asked.insert(2, question(4711))
    alone = [core.answer(one) for one in asked]
    together = core.answer_together(asked)
    assert [answer.question for answer in together] == asked
    assert [(answer.text, answer.status, answer.tokens) for answer in together] == [
        (answer.text, answer.status, answer.tokens) for answer in alone
    ]
    # The same numbers, added in another order.
    assert [answer.confidence for answer in together] == pytest.approx(
        [a.confidence for a in alone], abs=1e-4
    )
    assert language.most == core.settings.max_batch > 1
    assert together[2].status is AnswerStatus.NO_SUCH_OBJECT
    assert len({answer.text for answer in together}) > 3


def test_no_more_than_max_batch_are_in_work(start, language):
    live, (object_id, _), _ = start(max_batch=2)
    tickets = asked_at_once(live, language, [question(object_id, max_tokens=5)] * 5)
    assert all(ticket.wait(30).tokens for ticket in tickets)
    assert language.most == 2
    with pytest.raises(ParameterError, match="max_batch"):
        PerceptionSettings(max_batch=0)


def test_settings_hold_from_the_next_question_on_though_questions_keep_coming(core, language):
    core.observe(frame(0))
    object_id = core.add_region(box_region())
    coming, answers = [question(object_id, max_tokens=0) for _ in range(6)], []

    def waiting():
        if len(coming) == 3:
            core.settings = replace(core.settings, max_tokens=1, max_batch=1)
        return Asked(coming.pop(), answers.append) if coming else None

    core.answer_waiting(waiting)
    tokens = sorted(answer.tokens for answer in answers)
    assert tokens[:3] == [1] * 3 and tokens[3] > 1
    assert language.bounds == [PerceptionSettings().max_batch, 1]


def test_a_short_question_does_not_wait_for_a_long_answer_to_end(start, language):
    live, (object_id, other), answers = start()
    asked, begun = long_question(live, object_id), threading.Event()
    long = live.ask(asked, on_text=lambda *_: begun.set())
    assert begun.wait(20)
    short = live.ask(question(other)).wait(30)
    assert short.tokens > 0 and long.wait(0) is None
    long.cancel()
    assert long.wait(30).status is AnswerStatus.CANCELLED
    assert [answer.question for answer in answers[-2:]] == [short.question, asked]


def test_one_at_a_time_with_a_batch_of_one(start, language):
    live, (object_id, _), answers = start(max_batch=1)
    questions = [question(object_id, id=str(n), max_tokens=9 - n) for n in range(4)]
    for ticket in asked_at_once(live, language, questions):
        assert ticket.wait(30).tokens > 0
    assert [answer.question.id for answer in answers] == ["0", "1", "2", "3"]
    assert language.most == 1


def test_one_that_is_cancelled_leaves_the_others_as_they_were(start, language):
    live, (object_id, other), _ = start()
    asked = long_question(live, object_id)
    expected = live.ask(question(other, max_tokens=20)).wait(30)
    begun = threading.Event()
    cancelled = live.ask(asked, on_text=lambda *_: begun.set())
    staying = live.ask(question(other, max_tokens=20))
    assert begun.wait(20)
    cancelled.cancel()
    assert cancelled.wait(30).status is AnswerStatus.CANCELLED
    assert staying.wait(30).text == expected.text


def test_a_fault_of_the_backend_fails_those_in_work_and_the_next_are_answered(start, language):
    live, (object_id, other), _ = start()
    language.fault = BackendError("no memory")
    tickets = asked_at_once(live, language, [question(object_id), question(other)])
    for ticket in tickets:
        answer = ticket.wait(30)
        assert answer.status is AnswerStatus.INTERNAL_ERROR and "no memory" in answer.error
    assert live.ask(question(object_id)).wait(30).tokens > 0


def test_stop_cancels_every_one_in_work(start, language):
    live, (object_id, _), _ = start(max_batch=4)
    asked = long_question(live, object_id)
    tickets = [live.ask(asked) for _ in range(3)]
    until(lambda: language.most >= 3)
    assert live.stop(10)
    assert [ticket.wait(0).status for ticket in tickets] == [AnswerStatus.CANCELLED] * 3
