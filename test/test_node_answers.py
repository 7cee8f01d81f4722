# SPDX-License-Identifier: Apache-2.0
"""Camera, node and agent in processes of their own: questions, and how each of them ends."""

from __future__ import annotations

import threading
import time

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("pixelrefer_ros.msg")
pytestmark = pytest.mark.ros
pytest_plugins = ["node_fixtures"]

import pixelrefer_ros.msg as msg  # noqa: E402
from action_msgs.msg import GoalStatus  # noqa: E402
from node_processes import START_S, add_when_seen, camera_process, node_process, until  # noqa: E402
from pixelrefer_ros.action import Ask  # noqa: E402
from pixelrefer_ros.srv import AskQuestion  # noqa: E402
from rclpy.action import ActionClient  # noqa: E402

from pixelrefer_ros.model import write_tiny_checkpoint  # noqa: E402
from pixelrefer_ros.ros import PixelReferClient  # noqa: E402
from pixelrefer_ros.types import AnswerStatus, Box, Question, Region  # noqa: E402

BOX = Region(box=Box(20, 30, 30, 30), label="square")
LONG = 1000


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    # Of this seed most answers run in circles: they can be cancelled.
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("talkative") / "pixelrefer-tiny", seed=10)
    parameters = {
        "model": str(folder),
        "tracker_model": "none",
        "max_questions": 4,
        "max_batch": 2,
        "max_question_chars": 200,
    }
    # A camera that always sees the same: the model's answer to a question is then always the same as well.
    with node_process(parameters) as node, camera_process(speed=0):
        yield node


@pytest.fixture(scope="module")
def object_id(client):
    object_id = add_when_seen(client, BOX)
    until(lambda: client.list_objects().objects, what="the first tracked image")
    return object_id


@pytest.fixture(scope="module")
def long_question(client, object_id):
    """A question whose answer the model does not end by itself; it always sees, and so says, the same."""
    for index in range(40):
        question = Question(f"What is <region>? {index}", (object_id,), max_tokens=LONG)
        if client.ask(question.text, question.object_ids, max_tokens=LONG).status is AnswerStatus.TRUNCATED:
            return question
    raise AssertionError("this model ends every answer early")


def test_answer_carries_the_stamp_frame_and_object_asked_for(client, peer, object_id):
    seen = peer.listen(msg.ObjectArray, "/pixelrefer/objects")
    until(lambda: len(seen.messages) > 2)
    answer = client.ask("What is <region>?", [object_id], max_tokens=5, id="mine")
    until(lambda: len(seen.messages) > 5)
    seen.stop()
    stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in seen.messages]
    assert answer.status in (AnswerStatus.OK, AnswerStatus.TRUNCATED)
    assert (answer.question.id, answer.question.object_ids) == ("mine", (object_id,))
    assert answer.stamp_ns in stamps and answer.frame_stamps_ns == (answer.stamp_ns,)
    assert answer.frame_id == "camera_optical"
    assert 0 < answer.tokens <= 5 and 0 < answer.confidence <= 1
    assert "@" in answer.model and 0 < answer.time_to_first_token_s <= answer.total_time_s


def test_objects_carry_box_label_and_header_of_the_image(peer, object_id):
    heard = peer.listen(msg.ObjectArray, "/pixelrefer/objects")
    message = heard.next()
    heard.stop()
    found = {seen.id: seen for seen in message.objects}[object_id]
    assert message.header.frame_id == "camera_optical"
    assert (found.label, found.state, found.area_px) == ("square", msg.Object.TRACKED, 900)
    assert (found.box.x_offset, found.box.y_offset, found.box.width, found.box.height) == (20, 30, 30, 30)


def test_text_streams_while_it_is_written(client, long_question):
    told = []
    pending = client.start(long_question, on_text=lambda text, tokens: told.append((text, tokens)))
    until(lambda: len(told) > 5)
    assert not pending.done
    pending.cancel()
    answer = pending.result(10.0)
    counts = [tokens for _text, tokens in told]
    assert counts == sorted(counts) and counts[-1] <= answer.tokens
    assert len({text for text, _tokens in told}) > 1


def test_cancelled_question_stops_and_keeps_what_was_said(client, long_question):
    begun = threading.Event()
    pending = client.start(long_question, on_text=lambda _text, _tokens: begun.set())
    assert begun.wait(20.0)
    pending.cancel()
    answer = pending.result(10.0)
    assert answer.status is AnswerStatus.CANCELLED
    assert 0 < answer.tokens < LONG and answer.text
    assert client.ask("And now?", answer.question.object_ids, max_tokens=1).tokens <= 1


def test_waiting_questions_are_bounded_and_cancelled_ones_leave_the_queue(client, long_question):
    pending = [client.start(long_question) for _ in range(8)]
    until(lambda: any(question.done for question in pending), what="a refusal")
    for question in pending:
        question.cancel()
    answers = [question.result(10.0) for question in pending]
    assert {answer.status for answer in answers} == {AnswerStatus.OVERLOADED, AnswerStatus.CANCELLED}
    refused = [answer for answer in answers if answer.status is AnswerStatus.OVERLOADED]
    assert all("max_questions" in answer.error for answer in refused)


def test_agents_that_choose_the_same_id_get_their_own_answers(client, object_id):
    with PixelReferClient() as other:
        other.wait_ready(START_S)
        texts = [f"Is <region> number {i}?" for i in range(4)]
        asked = [
            agent.start(Question(text, (object_id,), "1", max_tokens=3))
            for agent, text in zip((client, other, client, other), texts, strict=True)
        ]
        assert [pending.result(20.0).question.text for pending in asked] == texts


def test_what_on_text_raises_comes_from_result_and_the_client_lives_on(client, long_question):
    def broken(_text, _tokens):
        raise ValueError("the screen is full")

    with pytest.raises(ValueError, match="the screen is full"):
        client.ask(long_question.text, long_question.object_ids, max_tokens=LONG, on_text=broken)
    answer = client.ask("And now?", long_question.object_ids, max_tokens=2)
    assert answer.status in (AnswerStatus.OK, AnswerStatus.TRUNCATED), "that question was cancelled"


def test_questions_are_answered_in_the_order_asked(client, peer, object_id):
    answers = peer.listen(msg.Answer, "/pixelrefer/answers", 50)
    until(lambda: peer.node.count_publishers("/pixelrefer/answers"))
    names = [f"in order {index}" for index in range(4)]
    asked = [client.start(Question("What?", (object_id,), name, max_tokens=2)) for name in names]
    for pending in asked:
        pending.result(20.0)
    until(lambda: [a for a in answers.messages if a.question_id == names[-1]])
    answers.stop()
    assert [a.question_id for a in answers.messages if a.question_id in names] == names


@pytest.mark.parametrize(
    ("text", "ids", "status"),
    [
        ("What is <region>?", [4711], AnswerStatus.NO_SUCH_OBJECT),
        ("x" * 201, None, AnswerStatus.BAD_QUESTION),
        ("", None, AnswerStatus.BAD_QUESTION),
        ("<region> or <region>?", None, AnswerStatus.BAD_QUESTION),
        ("What?", [], AnswerStatus.BAD_QUESTION),
        ("What?", range(17), AnswerStatus.BAD_QUESTION),
    ],
    ids=["unknown object", "too long", "empty", "too many <region>", "no object", "17 objects"],
)
def test_refused_question_says_why_and_the_next_good_one_is_answered(client, object_id, text, ids, status):
    refusal = client.ask(text, [object_id] if ids is None else ids)
    assert (refusal.status, refusal.tokens) == (status, 0) and refusal.error
    good = client.ask("What is <region>?", [object_id], max_tokens=2)
    assert good.status in (AnswerStatus.OK, AnswerStatus.TRUNCATED)


@pytest.mark.parametrize(
    ("status", "terminal"),
    [
        (AnswerStatus.TRUNCATED, GoalStatus.STATUS_SUCCEEDED),
        (AnswerStatus.CANCELLED, GoalStatus.STATUS_CANCELED),
        (AnswerStatus.NO_SUCH_OBJECT, GoalStatus.STATUS_ABORTED),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_goal_ends_in_the_state_its_answer_calls_for(peer, long_question, object_id, status, terminal):
    action = ActionClient(peer.node, Ask, "/pixelrefer/ask")
    assert action.wait_for_server(20.0)
    goal = Ask.Goal()
    goal.question.object_ids = [4711 if status is AnswerStatus.NO_SUCH_OBJECT else object_id]
    goal.question.text = long_question.text
    goal.question.max_tokens = LONG if status is AnswerStatus.CANCELLED else 3
    begun = threading.Event()
    sent = peer.on_its_thread(
        lambda: action.send_goal_async(goal, feedback_callback=lambda _told: begun.set())
    )
    until(sent.done)
    assert sent.result().accepted
    result = peer.on_its_thread(sent.result().get_result_async)
    if status is AnswerStatus.CANCELLED:
        assert begun.wait(20.0)
        peer.on_its_thread(sent.result().cancel_goal_async)
    until(result.done)
    assert result.result().status == terminal
    assert result.result().result.answer.status == status
    action.destroy()


def test_ask_service_waits_for_the_answer_while_images_go_on(peer, client, object_id):
    seen = peer.listen(msg.ObjectArray, "/pixelrefer/objects")
    question = msg.Question(text="What is <region>?", object_ids=[object_id], max_tokens=3, id="by service")
    answer = peer.call(AskQuestion, "/pixelrefer/ask", AskQuestion.Request(question=question)).answer
    assert (answer.question_id, list(answer.object_ids)) == ("by service", [object_id])
    assert answer.status in (msg.Answer.OK, msg.Answer.TRUNCATED)
    seen.next()
    seen.stop()


def test_ask_service_does_not_stop_tracking(peer, long_question):
    seen = peer.listen(msg.ObjectArray, "/pixelrefer/objects")
    answers = []
    message = msg.Question(text=long_question.text, object_ids=list(long_question.object_ids), max_tokens=200)
    request = AskQuestion.Request(question=message)
    asking = threading.Thread(
        target=lambda: answers.append(peer.call(AskQuestion, "/pixelrefer/ask", request, again=False).answer)
    )
    asking.start()
    tracked = 0
    while not answers:
        tracked = max(tracked, len(seen.messages))
        time.sleep(0.01)
    asking.join()
    seen.stop()
    assert answers[0].status == msg.Answer.TRUNCATED
    assert tracked > 1  # images were tracked between request and reply


def test_question_by_topic_is_answered_on_the_answers_topic_also_when_refused(peer, object_id):
    answers = peer.listen(msg.Answer, "/pixelrefer/answers", 50)
    questions = peer.publisher(msg.Question, "/pixelrefer/questions")
    until(lambda: peer.node.count_publishers("/pixelrefer/answers"))
    backwards = msg.Question(id="backwards", text="What?", object_ids=[object_id])
    backwards.history.sec = -1
    questions.publish(msg.Question(id="good", text="What?", object_ids=[object_id], max_tokens=2))
    questions.publish(msg.Question(id="nobody", text="What?", object_ids=[4711]))
    questions.publish(backwards)
    until(lambda: len(answers.messages) >= 3)
    answers.stop()
    status = {answer.question_id: answer.status for answer in answers.messages}
    assert status["good"] in (msg.Answer.OK, msg.Answer.TRUNCATED)
    assert status["nobody"] == msg.Answer.NO_SUCH_OBJECT
    assert status["backwards"] == msg.Answer.BAD_QUESTION


def test_client_that_closes_takes_its_questions_with_it(client, peer, long_question):
    answers = peer.listen(msg.Answer, "/pixelrefer/answers", 50)
    with PixelReferClient() as other:
        other.wait_ready(START_S)
        begun = threading.Event()
        pending = other.start(long_question, on_text=lambda _text, _tokens: begun.set())
        assert begun.wait(20.0)
    ended = until(lambda: next((a for a in answers.messages if a.question_id == pending.question.id), None))
    answers.stop()
    assert ended.status == msg.Answer.CANCELLED


def test_nothing_failed_inside_the_node(node, client):
    client.list_objects()
    assert "Traceback" not in node.output and "a callback failed" not in node.output
