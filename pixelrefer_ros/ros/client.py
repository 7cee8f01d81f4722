# SPDX-License-Identifier: Apache-2.0
"""The node as an agent sees it: plain blocking calls, values instead of messages."""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.action import ActionClient
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

import pixelrefer_ros.msg as msg
from pixelrefer_ros.action import Ask
from pixelrefer_ros.errors import (
    BadQuestion,
    EmptyRegion,
    NoFrame,
    NoSuchObject,
    Overloaded,
    PixelReferError,
)
from pixelrefer_ros.ros import conversions, qos
from pixelrefer_ros.ros.pending import PendingAnswer, PendingAnswers
from pixelrefer_ros.srv import AddRegion, ListObjects, RemoveObject
from pixelrefer_ros.types import Answer, AnswerStatus, Question, Region

_ERRORS: dict[int, type[PixelReferError]] = {
    int(kind.status): kind for kind in (BadQuestion, EmptyRegion, NoFrame, NoSuchObject, Overloaded)
}
_RETRY_S = 1.0
_CANCEL_S = 1.0


class PixelReferClient:
    """Speaks to one node. Use it in a ``with``; it has a context, a node and a thread of its own.

    Blocking calls may come from any thread but the one that runs `on_text`.
    """

    def __init__(self, node_name: str = "/pixelrefer", *, args: Sequence[str] = ()) -> None:
        """Prepare to speak to a node; `wait_ready` before the first call.

        Args:
            node_name: the node's full name, with its namespace.
            args: ROS arguments of the client's own node: `["--ros-args", "-r", "FROM:=TO"]`.
        """
        self._name = "/" + node_name.strip("/")
        self._context = Context()
        self._context.init(list(args))
        self._node = Node(f"pixelrefer_client_{uuid.uuid4().hex[:8]}", context=self._context)
        self._pending = PendingAnswers()
        self._outbox: deque[Callable[[], None]] = deque()
        self._clients = {
            name: self._node.create_client(kind, f"{self._name}/{name}", qos_profile=qos.REQUESTS)
            for name, kind in {
                "add_region": AddRegion,
                "remove_object": RemoveObject,
                "list_objects": ListObjects,
                "clear": Trigger,
                "set_enabled": SetBool,
            }.items()
        }
        self._ask = ActionClient(
            self._node,
            Ask,
            f"{self._name}/ask",
            goal_service_qos_profile=qos.REQUESTS,
            result_service_qos_profile=qos.REQUESTS,
            cancel_service_qos_profile=qos.REQUESTS,
        )
        self._node.create_subscription(msg.Answer, f"{self._name}/answers", self._heard, qos.ANSWERS)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._closing = False
        self._thread = threading.Thread(target=self._spin, name="pixelrefer-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> PixelReferClient:
        """The client itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Stop the client's thread and leave ROS. Questions still running are cancelled."""
        if self._closing:
            return
        pending = self._pending.all()
        for question in pending:
            question.cancel()
        deadline = time.monotonic() + _CANCEL_S
        while pending and not all(question.done for question in pending) and time.monotonic() < deadline:
            time.sleep(0.01)
        self._closing = True
        self._executor.create_task(lambda: None)  # wakes it up
        self._thread.join(2.0)
        self._executor.shutdown()
        self._ask.destroy()
        self._node.destroy_node()
        self._context.try_shutdown()

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Wait until the node is active and replies.

        A reply can be lost just after discovery, before the node knows this client; an object must not be
        added twice for that. So a region that points at nothing is sent until its refusal comes back.

        Raises:
            TimeoutError: the node did not become ready in time.
        """
        deadline = time.monotonic() + timeout_s
        while not (self._ask.server_is_ready() and all(c.service_is_ready() for c in self._clients.values())):
            if time.monotonic() > deadline:
                raise TimeoutError(f"node {self._name} is not active after {timeout_s:g} s")
            time.sleep(0.02)
        self._call("add_region", AddRegion.Request(), deadline - time.monotonic(), retry=True)

    def add_region(self, region: Region, *, timeout_s: float = 10.0) -> int:
        """Start an object, or correct one.

        Only a correction that names its picture by a stamp is sent again when no reply comes: without a stamp
        it would be of another picture then.

        Returns:
            The object's id.

        Raises:
            PixelReferError: it was refused; the class says why (`EmptyRegion`, `NoFrame`, ...).
            TimeoutError: no reply came; the region may have been taken all the same.
        """
        request = AddRegion.Request(region=conversions.region_to_msg(region))
        harmless = region.object_id != 0 and region.stamp_ns != 0
        response = self._call("add_region", request, timeout_s, retry=harmless)
        _raise_refusal(response.status, response.error)
        return int(response.object_id)

    def remove_object(self, object_id: int, *, timeout_s: float = 10.0) -> None:
        """Forget an object.

        Raises:
            NoSuchObject: there is none with that id (also if the first reply was lost and this was repeated).
            TimeoutError: no reply came.
        """
        response = self._call(
            "remove_object", RemoveObject.Request(object_id=object_id), timeout_s, retry=True
        )
        _raise_refusal(response.status, response.error)

    def clear(self, *, timeout_s: float = 10.0) -> None:
        """Forget every object.

        Raises:
            TimeoutError: no reply came.
        """
        self._call("clear", Trigger.Request(), timeout_s, retry=True)

    def set_enabled(self, enabled: bool, *, timeout_s: float = 10.0) -> None:
        """Switch work on or off; models and objects are kept.

        Raises:
            TimeoutError: no reply came.
        """
        self._call("set_enabled", SetBool.Request(data=enabled), timeout_s, retry=True)

    def list_objects(self, *, timeout_s: float = 10.0) -> msg.ObjectArray:
        """Every object, as of the newest tracked image.

        Raises:
            TimeoutError: no reply came.
        """
        return self._call("list_objects", ListObjects.Request(), timeout_s, retry=True).objects

    def ask(
        self,
        text: str,
        object_ids: Sequence[int],
        *,
        on_text: Callable[[str, int], None] | None = None,
        timeout_s: float = 60.0,
        **question: Any,
    ) -> Answer:
        """Ask and wait.

        Args:
            text: with one ``<region>`` per object, in order; with none, the objects are put before it.
            object_ids: the objects asked about.
            on_text: told the text so far and its number of tokens, on the client's thread.
            timeout_s: how long to wait; then the question is cancelled.
            question: further fields of `Question`: frames, history_s, max_tokens, id.

        Returns:
            The answer; a refusal is an answer too (status, error).

        Raises:
            TimeoutError: no answer came in time.
            Exception: what `on_text` raised; the question is cancelled.
        """
        pending = self.start(Question(text, tuple(object_ids), **question), on_text=on_text)
        try:
            return pending.result(timeout_s)
        except TimeoutError:
            pending.cancel()
            raise

    def start(
        self, question: Question, *, on_text: Callable[[str, int], None] | None = None
    ) -> PendingAnswer:
        """Ask without waiting; a question without an id is given one."""
        try:
            message = conversions.question_to_msg(question)
            named_here = not message.id
            message.id = message.id or uuid.uuid4().hex
            pending = PendingAnswer(conversions.to_question(message), self._cancel_goal)
        except BadQuestion as error:  # refused here, as the node refuses others
            pending = PendingAnswer(question, self._cancel_goal)
            pending.resolve(Answer(question, error.status, error=str(error)))
            return pending
        self._pending.add(pending, named_here=named_here)

        def feedback(told: Any) -> None:
            if on_text is None or pending.done:
                return
            try:
                on_text(told.feedback.text, told.feedback.tokens)
            except Exception as error:  # the asker's own fault, for the asker to see; others are served on
                self._pending.forget(pending)
                pending.fail(error)
                pending.cancel()

        def send() -> None:
            sent = self._ask.send_goal_async(Ask.Goal(question=message), feedback_callback=feedback)
            sent.add_done_callback(lambda future: self._goal_replied(pending, future.result()))

        # On the client's thread: from another, the reply could overtake rclpy's note of the request. And from
        # a queue: rclpy runs the newest of several waiting tasks first.
        self._outbox.append(send)
        self._executor.create_task(lambda: self._outbox.popleft()())
        return pending

    def _cancel_goal(self, goal: Any) -> None:
        self._executor.create_task(goal.cancel_goal_async)

    def _goal_replied(self, pending: PendingAnswer, goal: Any) -> None:
        if not goal.accepted:
            error = f"node {self._name} is not active and rejected the question: activate it"
            self._finish(pending, Answer(pending.question, AnswerStatus.INTERNAL_ERROR, error=error))
            return
        pending.accepted(goal)
        goal.get_result_async().add_done_callback(
            lambda future: self._finish(pending, conversions.to_answer(future.result().result.answer))
        )

    def _heard(self, message: msg.Answer) -> None:
        """Make up for a lost result."""
        if (pending := self._pending.named_here(message.question_id)) is not None:
            self._finish(pending, conversions.to_answer(message))

    def _finish(self, pending: PendingAnswer, answer: Answer) -> None:
        self._pending.forget(pending)
        pending.resolve(answer)

    def _call(self, name: str, request: Any, timeout_s: float, *, retry: bool) -> Any:
        """Call a service; repeat the request while no reply comes, if that does no harm."""
        client: Client = self._clients[name]
        deadline = time.monotonic() + timeout_s
        while True:
            replied = threading.Event()
            future = client.call_async(request)
            future.add_done_callback(lambda _future, replied=replied: replied.set())
            left = deadline - time.monotonic()
            if replied.wait(min(left, _RETRY_S) if retry else left):
                return future.result()
            client.remove_pending_request(future)
            if not retry or time.monotonic() >= deadline:
                raise TimeoutError(f"no reply from {self._name}/{name} within {timeout_s:g} s")

    def _spin(self) -> None:
        while self._context.ok() and not self._closing:
            try:
                self._executor.spin_once()
            except Exception as error:  # one reply that cannot be read must not end all others
                if not self._closing:
                    self._node.get_logger().error(f"a callback failed: {type(error).__name__}: {error}")


def _raise_refusal(status: int, error: str) -> None:
    if status:
        raise _ERRORS.get(status, PixelReferError)(error)
