# SPDX-License-Identifier: Apache-2.0
"""Perception beside a camera: tracking at the newest frame, language at its own pace; neither waits.

Two threads. What they wait for is bounded: one frame (a newer one takes its place), ``max_questions``
questions (more are refused), and the regions that `Perception` bounds.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

from pixelrefer_ros.perception.answering import AnswerInProgress, Asked, TextListener
from pixelrefer_ros.perception.core import Perception
from pixelrefer_ros.perception.statistics import Statistics
from pixelrefer_ros.perception.ticket import Ticket
from pixelrefer_ros.types import NANOSECONDS, Answer, AnswerStatus, Frame, Question, Scene

_log = logging.getLogger(__name__)
_RATE_SLACK = 0.9
"""A camera's stamps jitter: a frame that is due within a tenth of the period is due."""


class LivePerception:
    """Runs a `Perception` beside a camera.

    Callbacks run on the worker threads (a refused question's on the caller's, and on that of `stop` those of
    answers it did not wait for); an exception in one is told to ``on_error`` and ends nothing.
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
        """Prepare; `start` starts.

        Args:
            perception: the job; from now on its frames and questions come through this object only.
            on_scene: told every tracked frame.
            on_answer: told every answer, whoever asked.
            on_refused: told, in one line, of a region that was accepted and could not be taken in.
            on_error: told, in one line, what else went wrong that no answer tells.
        """
        self._perception = perception
        self._on_scene, self._on_answer, self._on_error = on_scene, on_answer, on_error
        self._stats = Statistics()
        perception.on_refused = lambda object_id, error: on_refused(
            f"a region of object {object_id} was refused: {error}"
        )
        self._wake_tracking = threading.Condition()
        self._frame: Frame | None = None
        self._last_tracked: tuple[int, float] | None = None  # its stamp, ns; when, on the steady clock, s
        self._tracking_since: float | None = None  # the frame in work, on the steady clock, s
        self._wake_language = threading.Condition()
        self._questions: deque[Ticket] = deque()
        self._answering: set[Ticket] = set()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._traced: set[tuple[type[Exception], str, int | None]] = set()

    @property
    def perception(self) -> Perception:
        """The job itself: its objects, scene and settings. Frames and questions go through this object."""
        return self._perception

    def start(self) -> None:
        """Start the two workers."""
        for name, run in (("tracking", self._run_tracking), ("language", self._run_language)):
            thread = threading.Thread(target=run, name=f"pixelrefer-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """Cancel what runs and what waits, and end the workers.

        Every question has its answer when this returns, even if a worker hangs.

        Returns:
            Whether both ended within ``timeout_s``.
        """
        self._stopping.set()
        with self._wake_language:
            unanswered = [*self._questions, *self._answering]
            self._wake_language.notify_all()
        for ticket in unanswered:
            ticket.cancel()
        with self._wake_tracking:
            self._wake_tracking.notify_all()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._wake_language:
            abandoned = tuple(self._answering)
        for ticket in abandoned:
            self._end_unanswered(ticket, AnswerStatus.CANCELLED)
        return not any(thread.is_alive() for thread in self._threads)

    def submit_frame(self, frame: Frame) -> None:
        """Hand in the newest frame; one that still waited is dropped and counted. Never blocks."""
        self._stats.count("frames_in")
        with self._wake_tracking:
            if self._frame is not None:
                self._stats.count("frames_dropped")
            self._frame = frame
            self._wake_tracking.notify()

    def ask(
        self,
        question: Question,
        *,
        on_text: TextListener | None = None,
        on_answer: Callable[[Answer], None] | None = None,
    ) -> Ticket:
        """Hand in a question; it is answered in its turn, several at once. Never blocks.

        Args:
            question: what is asked; a question that cannot be asked is answered with its status.
            on_text: told the text so far, and the tokens so far, whenever there is more of it.
            on_answer: told the answer, after the ``on_answer`` of this object.
        """

        def deliver(answer: Answer) -> None:
            self._stats.count("questions_answered")
            self._tell(self._on_answer, answer)
            if on_answer is not None:
                self._tell(on_answer, answer)

        ticket = Ticket(question, on_text, deliver, self._withdraw)
        with self._wake_language:
            limit = self._perception.settings.max_questions
            accepted = len(self._questions) < limit and not self._stopping.is_set()
            if accepted:
                self._questions.append(ticket)
                self._wake_language.notify()
        if self._stopping.is_set() and not accepted:
            self._end_unanswered(ticket, AnswerStatus.CANCELLED)
        elif not accepted:
            error = f"{limit} questions wait, the limit (max_questions): ask again when one is answered"
            self._end_unanswered(ticket, AnswerStatus.OVERLOADED, error)
        return ticket

    def stats(self) -> dict[str, Any]:
        """For diagnostics: counters since the start, and the newest durations of every stage, s.

        ``tracking_for_s`` is how long the frame in work has been tracked, 0 where none is.
        """
        counters, stages = self._stats.snapshot()
        with self._wake_language:
            waiting = len(self._questions)
        since = self._tracking_since
        names = (
            "frames_in",
            "frames_tracked",
            "frames_dropped",
            "frames_skipped",
            "frames_failed",
            "questions_answered",
            "errors",
        )
        return {name: counters.get(name, 0) for name in names} | {
            "questions_waiting": waiting,
            "tracking_for_s": 0.0 if since is None else time.monotonic() - since,
            "stages": stages,
        }

    def _run_tracking(self) -> None:
        while True:
            with self._wake_tracking:
                self._wake_tracking.wait_for(lambda: self._frame is not None or self._stopping.is_set())
                frame, self._frame = self._frame, None
            if self._stopping.is_set() or frame is None:
                return
            if self._is_too_soon(frame):
                self._stats.count("frames_skipped")
                continue
            self._tracking_since = time.monotonic()
            try:
                with self._stats.timed("track"):
                    scene = self._perception.observe(frame)
            except Exception as error:  # one frame's fault must not end the next one's tracking
                self._stats.count("frames_failed")
                self._report(f"frame at {frame.stamp_ns} ns was not tracked", error)
                continue
            finally:
                self._tracking_since = None
            if self._stopping.is_set():
                return  # told to nobody: whoever stopped this may have waited no longer
            self._last_tracked = frame.stamp_ns, time.monotonic()
            self._stats.count("frames_tracked")
            self._tell(self._on_scene, scene)
            if self._perception.next_to_describe() is not None:
                with self._wake_language:
                    self._wake_language.notify()

    def _is_too_soon(self, frame: Frame) -> bool:
        rate = self._perception.settings.track_rate_hz
        if rate <= 0 or self._last_tracked is None:
            return False
        stamp_ns, tracked_s = self._last_tracked
        since_s = (frame.stamp_ns - stamp_ns) / NANOSECONDS
        if since_s == 0:  # a camera that does not stamp
            since_s = time.monotonic() - tracked_s
        return 0 <= since_s < _RATE_SLACK / rate  # a stamp that went back is a clock set back

    def _run_language(self) -> None:
        while not self._stopping.is_set():
            with self._wake_language:
                self._wake_language.wait_for(self._has_language_work)
                asked = bool(self._questions)
            if asked:
                self._perception.answer_waiting(self._next_question)
            elif not self._stopping.is_set():
                self._describe()

    def _has_language_work(self) -> bool:
        if self._stopping.is_set() or self._questions:
            return True
        return self._perception.next_to_describe() is not None

    def _next_question(self) -> Asked | None:
        """Of those that wait, the one that waits longest; None if none does."""
        with self._wake_language:
            if not self._questions or self._stopping.is_set():
                return None
            ticket = self._questions.popleft()
            self._answering.add(ticket)

        def on_text(text: str, tokens: int) -> None:
            if ticket.on_text is not None and not ticket.done:
                self._tell(ticket.on_text, text, tokens)

        def on_answer(answer: Answer) -> None:
            with self._wake_language:
                self._answering.discard(ticket)
            self._stats.took("answer", answer.total_time_s)
            if answer.tokens:
                self._stats.took("first_token", answer.time_to_first_token_s)
            ticket.finish(answer)

        return Asked(
            ticket.question,
            on_answer,
            on_text,
            cancelled=lambda: ticket.cancelled or self._stopping.is_set(),
            accepted_s=ticket.accepted_s,
        )

    def _describe(self) -> None:
        """Describe what needs it; whoever asks meanwhile goes first, and it is tried again."""
        object_id = self._perception.next_to_describe()
        if object_id is None:
            return
        answer = self._perception.describe(
            object_id, cancelled=lambda: bool(self._questions) or self._stopping.is_set()
        )
        if answer.status is not AnswerStatus.CANCELLED:
            self._tell(self._on_answer, answer)

    def _withdraw(self, ticket: Ticket) -> None:
        with self._wake_language:
            if ticket not in self._questions:
                return
            self._questions.remove(ticket)
        self._end_unanswered(ticket, AnswerStatus.CANCELLED)

    def _end_unanswered(self, ticket: Ticket, status: AnswerStatus, error: str = "") -> None:
        progress = AnswerInProgress(ticket.question, ticket.accepted_s, self._perception.model)
        ticket.finish(progress.finished(status, error))

    def _tell(self, listener: Callable[..., None], *told: object) -> None:
        try:
            listener(*told)
        except Exception as error:  # a listener's fault is not the worker's
            self._report("a listener failed", error)

    def _report(self, what: str, error: Exception) -> None:
        self._stats.count("errors")
        # What fails at every frame would fill the disk with traces: each fault leaves one.
        place = traceback.extract_tb(error.__traceback__)[-1]
        fault = type(error), place.filename, place.lineno
        if fault not in self._traced:
            self._traced.add(fault)
            _log.error("%s", what, exc_info=error)
        self._on_error(f"{what}: {type(error).__name__}: {error}")
