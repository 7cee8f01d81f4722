# SPDX-License-Identifier: Apache-2.0
"""Questions, from the views chosen for them to their answers; those that wait are answered together."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pixelrefer_ros.errors import PixelReferError
from pixelrefer_ros.perception.looking import Cancelled, RegionLanguage, View, encode_views
from pixelrefer_ros.perception.settings import PerceptionSettings
from pixelrefer_ros.runtime import never
from pixelrefer_ros.types import Answer, AnswerStatus, Question

if TYPE_CHECKING:
    from pixelrefer_ros.model import AnswerRequest, GeneratedToken

_log = logging.getLogger(__name__)

TextListener = Callable[[str, int], None]
"""Called with the text so far and the number of tokens so far."""


def model_name(language: RegionLanguage) -> str:
    """Name and content hash, as answers carry them."""
    return f"{language.name}@{language.content_hash[:12]}"


@dataclass(frozen=True, eq=False, slots=True)
class Asked:
    """A question, and who wants to know. What is told must not raise, and must not ask for an answer itself.

    Attributes:
        question: what is asked.
        on_answer: told the answer as soon as it has ended.
        on_text: told the text so far, and the tokens so far, whenever there is more of it.
        cancelled: looked at before every view of an object, and every token.
        accepted_s: when it was asked, on the steady clock.
    """

    question: Question
    on_answer: Callable[[Answer], None]
    on_text: TextListener | None = None
    cancelled: Callable[[], bool] = never
    accepted_s: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class AnswerInProgress:
    """What is known of an answer while it is made; `finished` gives the frozen answer at any time.

    Attributes:
        question: what was asked.
        accepted_s: when, on the steady clock.
        views: what is looked at.
    """

    question: Question
    accepted_s: float
    model: str
    views: list[list[View]] = field(default_factory=list)
    _text: str = ""
    _log_probability: float = 0.0
    _tokens: int = 0
    _first_token_s: float = 0.0

    def request(
        self, language: RegionLanguage, settings: PerceptionSettings, cancelled: Callable[[], bool]
    ) -> AnswerRequest:
        """What the model is to decode; encodes the views.

        Raises:
            PixelReferError: the model refuses the question.
            Cancelled: ``cancelled`` said so.
        """
        from pixelrefer_ros.model import Sampling  # torch loads slowly; who only tracks does without

        sampling = (
            Sampling(temperature=settings.temperature, top_p=settings.top_p, seed=settings.seed)
            if settings.temperature > 0
            else None
        )
        return language.request(
            self.question.text,
            encode_views(language, self.views, cancelled),
            max_new_tokens=self.question.max_tokens or settings.max_tokens,
            sampling=sampling,
            cancelled=cancelled,
        )

    def hear(self, token: GeneratedToken, on_text: TextListener | None) -> AnswerStatus | None:
        """Take in the next token; the status if the answer ends with it."""
        from pixelrefer_ros.model import Finish

        if token.finish is Finish.CANCELLED:
            return AnswerStatus.CANCELLED
        if token.finish is Finish.NOT_FINITE:
            return AnswerStatus.INTERNAL_ERROR
        self._tokens += 1
        self._log_probability += math.log(max(token.probability, 1e-30))
        if self._tokens == 1:
            self._first_token_s = time.monotonic() - self.accepted_s
        if token.text:
            self._text += token.text
            if on_text is not None:
                on_text(self._text, self._tokens)
        return {Finish.STOP: AnswerStatus.OK, Finish.LENGTH: AnswerStatus.TRUNCATED, None: None}[token.finish]

    def finished(self, status: AnswerStatus, error: str = "") -> Answer:
        """The answer as it stands."""
        frames = {view.seen.frame.stamp_ns: view.seen.frame for of_object in self.views for view in of_object}
        stamps = tuple(sorted(frames))
        return Answer(
            question=self.question,
            status=status,
            text=self._text.strip(),
            confidence=math.exp(self._log_probability / self._tokens) if self._tokens else 0.0,
            stamp_ns=stamps[-1] if stamps else 0,
            frame_id=frames[stamps[-1]].frame_id if stamps else "",
            frame_stamps_ns=stamps,
            tokens=self._tokens,
            time_to_first_token_s=self._first_token_s,
            total_time_s=time.monotonic() - self.accepted_s,
            model=self.model,
            error=error or _REMEDIES.get(status, ""),
        )

    def failed(self, error: Exception) -> Answer:
        """The answer that an error leaves; one that is not of this domain is logged with its trace."""
        if isinstance(error, PixelReferError):
            return self.finished(error.status, str(error))
        _log.exception("question %r failed", self.question.id, exc_info=error)
        return self.finished(
            AnswerStatus.INTERNAL_ERROR,
            f"{type(error).__name__}: {error} (the log has the trace; please report it)",
        )


class AnswersTogether:
    """Answers what waits, several questions at once, each as it would be answered alone.

    Args:
        language: the model.
        settings: of perception, as they are now; each question is answered by those at its beginning.
        views: what a question looks at; may refuse it.
        waiting: the next question, or None if none waits now. Asked again whenever there is room.
    """

    def __init__(
        self,
        language: RegionLanguage,
        settings: Callable[[], PerceptionSettings],
        views: Callable[[Question], list[list[View]]],
        waiting: Callable[[], Asked | None],
    ) -> None:
        self._language, self._settings = language, settings
        self._views, self._waiting = views, waiting
        self._in_work: dict[AnswerRequest, tuple[Asked, AnswerInProgress]] = {}

    def run(self) -> None:
        """Until nothing waits and nothing is in work; a refused question ends no other's answer."""
        while (first := self._next()) is not None:
            try:
                self._decode(first)
            except Exception as error:  # of the backend: whoever was being answered
                for asked, progress in self._in_work.values():
                    asked.on_answer(progress.failed(error))
                self._in_work.clear()

    def _decode(self, first: AnswerRequest) -> None:
        begun, max_batch = [first], self._settings().max_batch

        def joining() -> AnswerRequest | None:
            if begun:
                return begun.pop()
            # Once another number may be answered at once, those in work end, and it begins anew.
            return self._next() if self._settings().max_batch == max_batch else None

        for request, token in self._language.generate_together(joining, max_batch=max_batch):
            asked, progress = self._in_work[request]
            status = progress.hear(token, asked.on_text)
            if status is not None:
                del self._in_work[request]
                asked.on_answer(progress.finished(status))

    def _next(self) -> AnswerRequest | None:
        """The next question that can be decoded; those that cannot are answered with the reason."""
        while (asked := self._waiting()) is not None:
            progress = AnswerInProgress(asked.question, asked.accepted_s, model_name(self._language))
            try:
                progress.views = self._views(asked.question)
                request = progress.request(self._language, self._settings(), asked.cancelled)
            except Cancelled:
                asked.on_answer(progress.finished(AnswerStatus.CANCELLED))
                continue
            except Exception as error:
                asked.on_answer(progress.failed(error))
                continue
            self._in_work[request] = asked, progress
            return request
        return None


_REMEDIES = {
    AnswerStatus.TRUNCATED: "the answer reached max_tokens: ask for a longer one, or more briefly",
    AnswerStatus.CANCELLED: "the question was cancelled: ask again",
    AnswerStatus.INTERNAL_ERROR: "the model's logits are no finite numbers, which float16 may be too narrow "
    "for: run it in bfloat16 or float32 (precision, or `pixelrefer export --precision`)",
}
