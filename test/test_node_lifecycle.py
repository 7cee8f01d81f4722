# SPDX-License-Identifier: Apache-2.0
"""The node's process and its states: configured, retried, renamed, stopped by signals at any moment."""

from __future__ import annotations

import contextlib
import signal
import threading
from dataclasses import replace

import pytest

rclpy = pytest.importorskip("rclpy")
pytestmark = pytest.mark.ros

import pixelrefer_ros.msg as msg  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from geometry_msgs.msg import Point, PointStamped  # noqa: E402
from lifecycle_msgs.msg import State, Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from node_processes import (  # noqa: E402
    START_S,
    Peer,
    add_when_seen,
    camera_process,
    node_process,
    shared_memory,
    shared_memory_of,
    stop_limit_s,
    until,
)
from pixelrefer_ros.action import Ask  # noqa: E402
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue  # noqa: E402
from rcl_interfaces.srv import SetParameters  # noqa: E402
from rclpy.action import ActionClient  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402

from pixelrefer_ros.errors import NoFrame  # noqa: E402
from pixelrefer_ros.model import write_tiny_checkpoint  # noqa: E402
from pixelrefer_ros.ros import (  # noqa: E402
    PixelReferClient,
    PixelReferNode,
    qos,
)
from pixelrefer_ros.ros.conversions import question_to_msg  # noqa: E402
from pixelrefer_ros.types import AnswerStatus, Box, Question, Region  # noqa: E402


@pytest.fixture
def peer():
    with Peer() as peer:
        yield peer


def change(peer: Peer, transition: int) -> bool:
    """Whether the node made a transition; a lost reply is made up for by asking for the state."""
    before = state(peer)
    request = ChangeState.Request(transition=Transition(id=transition))
    future = peer.send(ChangeState, "/pixelrefer/change_state", request)
    after = state(peer)  # the node replies to this only when the transition is over
    with contextlib.suppress(AssertionError):
        until(future.done, 2.0)
        return future.result().success
    return after != before


def state(peer: Peer) -> int:
    return peer.call(
        GetState, "/pixelrefer/get_state", GetState.Request(), timeout_s=START_S
    ).current_state.id


def set_text(peer: Peer, name: str, text: str) -> bool:
    value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=text)
    request = SetParameters.Request(parameters=[Parameter(name=name, value=value)])
    return peer.call(SetParameters, "/pixelrefer/set_parameters", request).results[0].successful


def waiting_questions(message: DiagnosticArray) -> int:
    return int({pair.key: pair.value for pair in message.status[0].values}["questions_waiting"])


def services(peer: Peer) -> set[str]:
    return {name for name, _types in peer.node.get_service_names_and_types()}


def test_failed_configure_is_retried_after_setting_the_parameter_right(peer, tiny_model_folder):
    before = shared_memory()
    with node_process({"model": "/no/such/model", "tracker_model": "none", "autostart": False}) as node:
        assert state(peer) == State.PRIMARY_STATE_UNCONFIGURED
        assert not change(peer, Transition.TRANSITION_CONFIGURE)
        assert "/no/such/model" in node.wait_for_line("cannot configure")
        assert state(peer) == State.PRIMARY_STATE_UNCONFIGURED

        assert set_text(peer, "model", str(tiny_model_folder))
        assert change(peer, Transition.TRANSITION_CONFIGURE)
        assert "(auto: " in node.wait_for_line("running the model on torch cpu float32")
        assert state(peer) == State.PRIMARY_STATE_INACTIVE
        assert not set_text(peer, "model", "another")
        assert "/pixelrefer/add_region" not in services(peer)

        assert not change(peer, Transition.TRANSITION_DEACTIVATE)  # not from inactive; the node lives on
        assert change(peer, Transition.TRANSITION_ACTIVATE)
        until(lambda: "/pixelrefer/add_region" in services(peer))
        assert change(peer, Transition.TRANSITION_DEACTIVATE)
        until(lambda: "/pixelrefer/add_region" not in services(peer))
        assert change(peer, Transition.TRANSITION_CLEANUP)
        assert set_text(peer, "model", "another")
        assert set_text(peer, "model", str(tiny_model_folder))
        assert change(peer, Transition.TRANSITION_CONFIGURE)
        assert change(peer, Transition.TRANSITION_ACTIVATE)

        own = {name for name in shared_memory_of(node.process.pid) - before if "port" not in name}
        assert own
        code, seconds = node.stop(signal.SIGTERM)
        assert (code, seconds < stop_limit_s()) == (0, True), node.output
        assert "Traceback" not in node.output and "a callback failed" not in node.output
        assert not own & shared_memory()  # tens of megabytes for every start, were they left behind


def test_goals_end_cancelled_when_their_client_vanishes_or_the_node_deactivates_or_stops(peer, tmp_path):
    # Of this seed most answers run in circles: they are still being written when they shall end.
    folder = write_tiny_checkpoint(tmp_path / "pixelrefer-tiny", seed=10)
    parameters = {"model": str(folder), "tracker_model": "none", "max_questions": 64}
    with node_process(parameters) as node, camera_process(speed=0):
        with PixelReferClient() as client:
            client.wait_ready(START_S)
            object_id = add_when_seen(client, Region(box=Box(20, 30, 30, 30)))
        questions = [
            Question(f"What is <region>? {i}", (object_id,), id=str(i), max_tokens=1000) for i in range(40)
        ]

        # The client vanishes: nobody listens to the action any more.
        answers = peer.listen(msg.Answer, "/pixelrefer/answers", 50)
        action = ActionClient(peer.node, Ask, "/pixelrefer/ask", goal_service_qos_profile=qos.REQUESTS)
        assert action.wait_for_server(20.0)
        goals = [Ask.Goal(question=question_to_msg(question)) for question in questions]
        sent = peer.on_its_thread(lambda: [action.send_goal_async(goal) for goal in goals])
        until(lambda: all(future.done() for future in sent))
        action.destroy()
        last = until(lambda: next((a for a in answers.messages if a.question_id == "39"), None))
        assert last.status == msg.Answer.CANCELLED

        with PixelReferClient() as client:
            client.wait_ready(START_S)
            begun = threading.Event()
            pending = [client.start(q, on_text=lambda _text, _tokens: begun.set()) for q in questions]
            assert begun.wait(20.0)
            until(lambda: all(p.taken for p in pending))  # what comes later is rejected, not cancelled
            topic = peer.publisher(msg.Question, "/pixelrefer/questions")
            by_topic = [f"by topic {i}" for i in range(6)]
            for name in by_topic:
                topic.publish(question_to_msg(replace(questions[0], id=name)))
            diagnostics = peer.listen(DiagnosticArray, "/diagnostics")
            until(lambda: waiting_questions(diagnostics.next()) > 38, what="the topic's questions to wait")
            assert change(peer, Transition.TRANSITION_DEACTIVATE)
            until(lambda: any(a.question_id == by_topic[-1] for a in answers.messages))
            heard = {a.question_id: a.status for a in answers.messages}
            assert [heard.get(name) for name in by_topic] == [msg.Answer.CANCELLED] * len(by_topic)
            assert [p.result(10.0).status for p in pending][-1] is AnswerStatus.CANCELLED
            rejected = client.ask("What?", [object_id])
            assert rejected.status is AnswerStatus.INTERNAL_ERROR and "not active" in rejected.error

            assert change(peer, Transition.TRANSITION_ACTIVATE)
            client.wait_ready(START_S)
            begun.clear()
            pending = [client.start(q, on_text=lambda _text, _tokens: begun.set()) for q in questions]
            assert begun.wait(20.0)
            until(lambda: all(p.taken for p in pending))
            code, seconds = node.stop(signal.SIGINT)  # while it decodes
            assert (code, seconds < stop_limit_s()) == (0, True), node.output
            assert pending[-1].result(10.0).status is AnswerStatus.CANCELLED
        assert "Traceback" not in node.output and "a callback failed" not in node.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_signal_while_loading_stops_the_node(number):
    with node_process({"model": "tiny-random", "tracker_model": "tiny-random"}) as node:
        node.wait_for_line("loading model")
        code, seconds = node.stop(number)
        assert (code, seconds < stop_limit_s()) == (0, True), node.output
        assert "Traceback" not in node.output


def test_wrong_parameter_at_start_is_one_clear_line():
    with node_process({"max_objects": 0}) as node:
        assert node.process.wait(30.0) == 1
        node.wait_for_line("max_objects")
        assert "Traceback" not in node.output and len(node.lines) == 1, node.output


def test_whole_path_with_tracking_compressed_images_and_another_name(
    peer, tiny_model_folder, tiny_sam2_folder
):
    parameters = {
        "model": str(tiny_model_folder),
        "tracker_model": str(tiny_sam2_folder),
        "image_transport": "compressed",
        "image_qos": "sensor_data",
        "describe_new_objects": "What is <region>?",
        "max_tokens": 4,
        "track_rate": 50,  # a whole number for a float
        "max_tokenz": 4,  # ROS drops what is not declared: the node says so
        "use_sim_time": True,  # nobody publishes a clock: nothing may wait for one
    }
    remaps = {"__ns": "/robot", "__node": "eyes", "image/compressed": "/camera/jpeg"}
    with (
        node_process(parameters, remaps=remaps) as node,
        camera_process("/camera/jpeg", transport="compressed"),
        PixelReferClient("/robot/eyes") as client,
    ):
        client.wait_ready(START_S)
        assert "max_tokenz" in node.wait_for_line("no such parameter")
        object_id = add_when_seen(client, Region(box=Box(20, 30, 30, 30), label="square"))
        objects = peer.listen(msg.ObjectArray, "/robot/eyes/objects")
        described = objects.next(matching=lambda m: any(o.description for o in m.objects)).objects[0]
        assert (described.id, described.label) == (object_id, "square")
        answer = client.ask("What is <region>?", [object_id], frames=3, history_s=1.0, max_tokens=4)
        stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in objects.messages]
        assert answer.status in (AnswerStatus.OK, AnswerStatus.TRUNCATED), answer.error
        assert 1 <= len(answer.frame_stamps_ns) <= 3 and answer.frame_id == "camera_optical"
        assert answer.stamp_ns == answer.frame_stamps_ns[-1] and answer.stamp_ns >= stamps[0]
        clicks = peer.publisher(PointStamped, "/robot/eyes/point")
        click = PointStamped(point=Point(x=35.0, y=45.0))
        click.header.stamp.sec = 5  # a viewer's own clock
        clicks.publish(click)
        clicked = objects.next(matching=lambda m: len(m.objects) == 2).objects
        assert [o.id for o in clicked] == [object_id, object_id + 1]
        code, seconds = node.stop(signal.SIGTERM)  # while it tracks
        assert (code, seconds < stop_limit_s()) == (0, True), node.output
        assert "Traceback" not in node.output and "a callback failed" not in node.output


def test_two_nodes_live_in_one_process(ros_context, tiny_model_folder):
    stopping = threading.Event()
    overrides = [
        rclpy.Parameter("model", value=str(tiny_model_folder)),
        rclpy.Parameter("tracker_model", value="none"),
        rclpy.Parameter("autostart", value=False),
    ]
    nodes = [
        PixelReferNode(namespace=name, context=ros_context, stopping=stopping, parameter_overrides=overrides)
        for name in ("/left", "/right")
    ]
    executor = SingleThreadedExecutor(context=ros_context)
    for node in nodes:
        executor.add_node(node)
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    ended = threading.Event()

    def spin() -> None:
        while not ended.is_set():
            executor.spin_once(timeout_sec=0.1)

    spinning = threading.Thread(target=spin)
    spinning.start()
    with (
        camera_process("/left/image"),
        PixelReferClient("/left/pixelrefer") as left,
        PixelReferClient("/right/pixelrefer") as right,
    ):
        left.wait_ready(START_S)
        right.wait_ready(START_S)
        object_id = add_when_seen(left, Region(box=Box(20, 30, 30, 30)))
        assert left.ask("What is <region>?", [object_id], max_tokens=2).tokens > 0
        with pytest.raises(NoFrame):
            right.add_region(Region(box=Box(20, 30, 30, 30)))
    ended.set()
    spinning.join()
    for node in nodes:
        node.stop()
        node.destroy_node()
    executor.shutdown()
