# SPDX-License-Identifier: Apache-2.0
"""The action `~/ask`: the text streams as feedback, cancelling stops decoding within one token.

rclpy would run a goal inside the executor, where waiting for an answer stops the camera. So an accepted
goal is only handed to the language worker; feedback is published from that worker; and the goal is
executed when its answer is there, which takes no time. Until then its state is ACCEPTED (or CANCELING).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from rclpy.action import CancelResponse, GoalResponse
from rclpy.action.server import ActionServer, GoalEvent, RCLError, ServerGoalHandle
from rclpy.exceptions import InvalidHandle
from rclpy.node import Node

from pixelrefer_ros.action import Ask
from pixelrefer_ros.ros import qos
from pixelrefer_ros.ros.asking import ask_or_refuse
from pixelrefer_ros.ros.conversions import answer_to_msg
from pixelrefer_ros.ros.switch import SwitchedPerception
from pixelrefer_ros.types import Answer, AnswerStatus

_RESULT_KEPT_S = 60
"""Results are kept so long for clients that ask late; they hold memory."""


class AskAction:
    """The action server. Everything but `_feedback` and `_answered` runs on the executor's thread.

    It lives from configure to cleanup and rejects goals while the node is not active, so that goals
    cancelled by deactivating can still be told so.
    """

    def __init__(self, node: Node) -> None:
        """Offer the action; goals are rejected until `accept`."""
        self._node = node
        self._work: SwitchedPerception | None = None
        self._running: dict[bytes, Callable[[], None]] = {}
        self._checks_without_client = 0
        self._server = ActionServer(
            node,
            Ask,
            "~/ask",
            execute_callback=_never_called,
            goal_callback=self._goal,
            handle_accepted_callback=self._accepted,
            cancel_callback=self._cancel,
            result_timeout=_RESULT_KEPT_S,
            goal_service_qos_profile=qos.REQUESTS,
            result_service_qos_profile=qos.REQUESTS,
            cancel_service_qos_profile=qos.REQUESTS,
        )

    @property
    def running(self) -> int:
        """Goals without a result yet."""
        return len(self._running)

    def accept(self, work: SwitchedPerception) -> None:
        """Take goals from now on, for `work` to answer."""
        self._work = work

    def reject(self) -> None:
        """Take no more goals, and let go of what answers them; those taken are still told how they end."""
        self._work = None

    def close(self) -> None:
        """Offer the action no more."""
        self.reject()
        self._running.clear()
        self._server.destroy()

    def cancel_abandoned(self) -> None:
        """Cancel every goal when there was no client for two calls in a row; call it once a second."""
        # Its own full name: ROS remaps each topic of an action by itself, and the action's name not at all.
        feedback = self._node.resolve_topic_name("~/ask/_action/feedback")
        abandoned = bool(self._running) and self._node.count_subscribers(feedback) == 0
        self._checks_without_client = self._checks_without_client + 1 if abandoned else 0
        if self._checks_without_client >= 2:
            for cancel in list(self._running.values()):
                cancel()

    def _goal(self, _request: Ask.Goal) -> GoalResponse:
        return GoalResponse.REJECT if self._work is None else GoalResponse.ACCEPT

    def _accepted(self, goal: ServerGoalHandle) -> None:
        assert self._work is not None  # noqa: S101 (rclpy calls this straight after `_goal`)
        cancel = ask_or_refuse(
            self._work,
            goal.request.question,
            on_text=functools.partial(self._feedback, goal),
            on_answer=functools.partial(self._answered, goal),
        )
        # The answer may be there already, but `_finish` can only run after this.
        self._running[_key(goal)] = cancel

    def _cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        if (cancel := self._running.get(_key(goal))) is not None:
            cancel()
        return CancelResponse.ACCEPT

    def _feedback(self, goal: ServerGoalHandle, text: str, tokens: int) -> None:
        try:
            goal.publish_feedback(Ask.Feedback(text=text, tokens=tokens))
        except (RCLError, InvalidHandle):
            return  # the client or this server went away; the answer says how it ended

    def _answered(self, goal: ServerGoalHandle, answer: Answer) -> None:
        if (executor := self._node.executor) is not None:
            executor.create_task(self._finish, goal, answer)

    def _finish(self, goal: ServerGoalHandle, answer: Answer) -> None:
        try:
            goal.execute(functools.partial(self._conclude, answer))
        except (RCLError, InvalidHandle):  # this server was closed meanwhile: nobody is left to be told
            self._running.pop(_key(goal), None)

    def _conclude(self, answer: Answer, goal: ServerGoalHandle) -> Ask.Result:
        """Bring the goal to the terminal state its answer calls for."""
        self._running.pop(_key(goal), None)
        if answer.status in (AnswerStatus.OK, AnswerStatus.TRUNCATED):
            goal.succeed()
        elif answer.status is AnswerStatus.CANCELLED:
            if not goal.is_cancel_requested:  # cancelled by the node: that passes through CANCELING as well
                goal._update_state(GoalEvent.CANCEL_GOAL)
            goal.canceled()
        else:
            goal.abort()
        return Ask.Result(answer=answer_to_msg(answer))


def _key(goal: ServerGoalHandle) -> bytes:
    return bytes(goal.goal_id.uuid)


def _never_called(_goal: Any) -> Ask.Result:
    raise AssertionError("every goal is executed with its own callback")
