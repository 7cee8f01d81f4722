# SPDX-License-Identifier: Apache-2.0
"""A question on its way to an answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pixelrefer_ros.perception.answering import TextListener
from pixelrefer_ros.types import Answer, Question


class Ticket:
    """A question that was handed in: it can be cancelled, and waited for."""

    def __init__(
        self,
        question: Question,
        on_text: TextListener | None,
        on_answer: Callable[[Answer], None],
        withdraw: Callable[[Ticket], None],
    ) -> None:
        """Made by `LivePerception.ask` only."""
        self.question, self.on_text = question, on_text
        self.accepted_s = time.monotonic()
        self._on_answer, self._withdraw = on_answer, withdraw
        self._cancelled = threading.Event()
        self._finish = threading.Lock()
        self._done = threading.Event()
        self._answer: Answer | None = None

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Stop decoding within one token; a question that still waits is answered CANCELLED at once."""
        self._cancelled.set()
        self._withdraw(self)

    def wait(self, timeout_s: float | None = None) -> Answer | None:
        """The answer; None if it has not come within ``timeout_s``."""
        self._done.wait(timeout_s)
        return self._answer

    @property
    def done(self) -> bool:
        """Whether it has its answer."""
        return self._answer is not None

    def finish(self, answer: Answer) -> None:
        """Hand over the answer; one that comes later still is dropped."""
        with self._finish:
            if self._answer is not None:
                return
            self._answer = answer
        try:
            self._on_answer(answer)
        finally:
            self._done.set()
