# SPDX-License-Identifier: Apache-2.0
"""Questions that an agent has asked and that have not been answered yet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pixelrefer_ros.types import Answer, Question


class PendingAnswer:
    """A question on its way.

    The answer comes by the action's result or, if that is lost and the question had no id, by `~/answers`.
    """

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
        self._fault: Exception | None = None
        self._goal: Any = None
        self._cancelled = False

    @property
    def done(self) -> bool:
        """True once the answer is there, or never will be."""
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
            Exception: what the asker's own `on_text` raised.
        """
        self._done.wait(timeout_s)
        if self._fault is not None:
            raise self._fault
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

    def fail(self, error: Exception) -> None:
        """End without an answer; `result` raises the error."""
        with self._lock:
            self._fault = error
        self._done.set()

    def accepted(self, goal: Any) -> None:
        """Hand over the accepted goal, by which the question can be cancelled."""
        with self._lock:
            self._goal, cancelled = goal, self._cancelled
        if cancelled:
            self._cancel_goal(goal)


class PendingAnswers:
    """All of a client's; thread-safe."""

    def __init__(self) -> None:
        """None is pending."""
        self._lock = threading.Lock()
        self._pending: set[PendingAnswer] = set()
        self._named_here: dict[str, PendingAnswer] = {}

    def add(self, pending: PendingAnswer, *, named_here: bool) -> None:
        """Take up one.

        Args:
            pending: a question with its id.
            named_here: whether this client made the id up, so that no question of another has it.
        """
        with self._lock:
            self._pending.add(pending)
            if named_here:
                self._named_here[pending.question.id] = pending

    def all(self) -> list[PendingAnswer]:
        """Those that wait now."""
        with self._lock:
            return list(self._pending)

    def named_here(self, question_id: str) -> PendingAnswer | None:
        """The one of an id this client made up; two agents may choose the same id for different questions."""
        with self._lock:
            return self._named_here.get(question_id)

    def forget(self, pending: PendingAnswer) -> None:
        """It has ended."""
        with self._lock:
            self._pending.discard(pending)
            if self._named_here.get(pending.question.id) is pending:
                del self._named_here[pending.question.id]
