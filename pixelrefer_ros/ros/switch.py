# SPDX-License-Identifier: Apache-2.0
"""Perception that can be switched off and on again, keeping models and objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pixelrefer_ros.errors import NoFrame, PixelReferError
from pixelrefer_ros.types import Answer, AnswerStatus, Frame, Question, Region, Scene

if TYPE_CHECKING:  # importing perception loads torch: that is for the thread that loads the models
    from pixelrefer_ros.perception import LivePerception, Perception

_OFF = "the node is switched off: call ~/set_enabled with true"


class SwitchedPerception:
    """A `LivePerception` while switched on; while off, frames are ignored and the rest is refused.

    Thread-safe except for `switch_on` and `switch_off`, which belong to one thread.
    """

    def __init__(
        self,
        perception: Perception,
        *,
        on_scene: Callable[[Scene], None],
        on_answer: Callable[[Answer], None],
        on_refused: Callable[[str], None],
        on_error: Callable[[str], None],
    ) -> None:
        """Join perception and its listeners; as `LivePerception`. It is off until `switch_on`."""
        self.perception = perception
        self._listeners: dict[str, Any] = {
            "on_scene": on_scene,
            "on_answer": on_answer,
            "on_refused": on_refused,
            "on_error": on_error,
        }
        self._on_answer = on_answer
        self._live: LivePerception | None = None

    def switch_on(self) -> None:
        """Start working; nothing happens if it works already."""
        from pixelrefer_ros.perception import LivePerception

        if self._live is None:
            live = LivePerception(self.perception, **self._listeners)
            live.start()
            self._live = live

    def switch_off(self, timeout_s: float) -> bool:
        """Stop working: what runs or waits is cancelled.

        Returns:
            True if it had stopped within `timeout_s` seconds.
        """
        live, self._live = self._live, None
        return live is None or live.stop(timeout_s)

    def submit_frame(self, frame: Frame) -> None:
        """Give the newest frame to the tracker; never blocks."""
        if (live := self._live) is not None:
            live.submit_frame(frame)

    def add_region(self, region: Region) -> int:
        """As `Perception.add_region`; `NoFrame` while switched off."""
        if self._live is None:
            raise NoFrame(_OFF)
        return self.perception.add_region(region)

    def ask(
        self,
        question: Question,
        *,
        on_text: Callable[[str, int], None] | None = None,
        on_answer: Callable[[Answer], None] | None = None,
    ) -> Callable[[], None]:
        """Hand in a question; as `LivePerception.ask`.

        Returns:
            What cancels it; may be called at any time, from any thread.
        """
        if (live := self._live) is not None:
            return live.ask(question, on_text=on_text, on_answer=on_answer).cancel
        self.refuse(question, NoFrame(_OFF), on_answer)
        return _nothing

    def refuse(
        self, question: Question, error: Exception, on_answer: Callable[[Answer], None] | None = None
    ) -> None:
        """Give a question that was never handed in its answer: the error's status and text."""
        status = error.status if isinstance(error, PixelReferError) else AnswerStatus.INTERNAL_ERROR
        answer = Answer(question, status, model=self.perception.model, error=str(error))
        for listener in (self._on_answer, on_answer):
            if listener is not None:
                listener(answer)

    def stats(self) -> dict[str, Any] | None:
        """As `LivePerception.stats`; None while switched off."""
        return None if (live := self._live) is None else live.stats()


def _nothing() -> None:
    """Cancel a question that was refused."""
