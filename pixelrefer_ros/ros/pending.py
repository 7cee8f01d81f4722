# SPDX-License-Identifier: Apache-2.0
"""A question that an agent has asked and not yet been answered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pixelrefer_ros.types import Answer, Question


class PendingAnswer:
    """A question on its way; the answer comes by the action's result or, if that is lost, by `~/answers`."""

    def __init__(self, question: Question, cancel_goal: Callable[[Any], object]) -> None:
        """Made by `PixelReferClient.start`.

        Args:
            question: what was asked.
            cancel_goal: asks the node to cancel an action goal; may be called from any thread.
        """
        self.question = question
        self._cancel_goal = cancel_goal
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._answer: Answer | None = None
        self._goal: Any = None
        self._cancelled = False

    @property
    def done(self) -> bool:
        """True once the answer is there."""
        return self._done.is_set()

    @property
    def taken(self) -> bool:
        """True once the node has accepted the question: it then ends with an answer of its own."""
        with self._lock:
            return self._goal is not None

    def result(self, timeout_s: float) -> Answer:
        """Wait for the answer.

        Raises:
            TimeoutError: it did not come in time; the question goes on.
        """
        self._done.wait(timeout_s)
        if self._answer is None:
            raise TimeoutError(f"no answer to {self.question.text!r} within {timeout_s:g} s")
        return self._answer

    def cancel(self) -> None:
        """Stop the answer; it then comes with status CANCELLED and what was said until then."""
        with self._lock:
            self._cancelled, goal = True, self._goal
        if goal is not None:
            self._cancel_goal(goal)

    def resolve(self, answer: Answer) -> None:
        """Hand over the answer; the first one counts."""
        with self._lock:
            if self._answer is None:
                self._answer = answer
        self._done.set()

    def accepted(self, goal: Any) -> None:
        """Hand over the accepted goal, by which the question can be cancelled."""
        with self._lock:
            self._goal, cancelled = goal, self._cancelled
        if cancelled:
            self._cancel_goal(goal)
