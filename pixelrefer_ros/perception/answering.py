# SPDX-License-Identifier: Apache-2.0
"""One question, from the views chosen for it to its answer."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pixelrefer_ros.errors import PixelReferError
from pixelrefer_ros.perception.looking import RegionLanguage, View, encode_views
from pixelrefer_ros.perception.settings import PerceptionSettings
from pixelrefer_ros.types import Answer, AnswerStatus, Question

_log = logging.getLogger(__name__)

TextListener = Callable[[str, int], None]
"""Called with the text so far and the number of tokens so far."""


def never() -> bool:
    """Never cancelled."""
    return False


def model_name(language: RegionLanguage) -> str:
    """Name and content hash, as answers carry them."""
    return f"{language.name}@{language.content_hash[:12]}"


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

    def generate(
        self,
        language: RegionLanguage,
        settings: PerceptionSettings,
        on_text: TextListener | None,
        cancelled: Callable[[], bool],
    ) -> AnswerStatus:
        """Decode until the model stops, the limit is reached, or ``cancelled``.

        Raises:
            PixelReferError: the model refuses the question.
        """
        from pixelrefer_ros.model import Finish, Sampling  # torch loads slowly; who only tracks does without

        if cancelled():
            return AnswerStatus.CANCELLED
        objects = encode_views(language, self.views)
        sampling = (
            Sampling(temperature=settings.temperature, top_p=settings.top_p, seed=settings.seed)
            if settings.temperature > 0
            else None
        )
        finish = None
        for token in language.generate(
            self.question.text,
            objects,
            max_new_tokens=self.question.max_tokens or settings.max_tokens,
            sampling=sampling,
            cancelled=cancelled,
        ):
            finish = token.finish
            if finish is Finish.CANCELLED:
                break
            self._tokens += 1
            self._log_probability += math.log(max(token.probability, 1e-30))
            if self._tokens == 1:
                self._first_token_s = time.monotonic() - self.accepted_s
            if token.text:
                self._text += token.text
                if on_text is not None:
                    on_text(self._text, self._tokens)
        statuses = {Finish.STOP: AnswerStatus.OK, Finish.LENGTH: AnswerStatus.TRUNCATED}
        return statuses.get(finish, AnswerStatus.CANCELLED) if finish else AnswerStatus.INTERNAL_ERROR

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


_REMEDIES = {
    AnswerStatus.TRUNCATED: "the answer reached max_tokens: ask for a longer one, or more briefly",
    AnswerStatus.CANCELLED: "the question was cancelled: ask again",
    AnswerStatus.INTERNAL_ERROR: "the model ended without saying why: please report it",
}
