# SPDX-License-Identifier: Apache-2.0
"""From a question to what the language model looks at: frames chosen, object tokens computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pixelrefer_ros.errors import BadQuestion, ObjectLost
from pixelrefer_ros.perception.memory import (
    FrameMemory,
    RememberedFrame,
    RememberedMask,
    spread,
)
from pixelrefer_ros.perception.settings import MAX_ANSWER_TOKENS, PerceptionSettings
from pixelrefer_ros.runtime import never
from pixelrefer_ros.types import (
    MAX_OBJECTS_PER_QUESTION,
    NANOSECONDS,
    REGION_TAG,
    Mask,
    Question,
    RgbImage,
)

if TYPE_CHECKING:
    from pixelrefer_ros.model import (
        AnswerRequest,
        GeneratedToken,
        GlobalFeatures,
        ObjectTokens,
        Sampling,
        TimedTokens,
    )
    from pixelrefer_ros.runtime import BackendInUse


class RegionLanguage(Protocol):
    """What perception needs of a region language model; `pixelrefer_ros.model.PixelReferLite` is one."""

    name: str
    content_hash: str

    @property
    def in_use(self) -> BackendInUse:
        """What runs its networks."""

    def encode_global(self, rgb: RgbImage) -> GlobalFeatures:
        """Features of the whole frame."""

    def encode_object(self, rgb: RgbImage, mask: Mask, global_features: GlobalFeatures) -> ObjectTokens:
        """Tokens (n, D) of one object in one frame."""

    def request(
        self,
        text: str,
        objects: Sequence[Sequence[TimedTokens]],
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        cancelled: Callable[[], bool],
    ) -> AnswerRequest:
        """A question made ready to be answered."""

    def generate_together(
        self, waiting: Callable[[], AnswerRequest | None], *, max_batch: int
    ) -> Iterator[tuple[AnswerRequest, GeneratedToken]]:
        """Answers to what waits, several at once, token by token."""


class Cancelled(Exception):
    """Nobody wants the tokens any more."""


@dataclass(frozen=True, eq=False, slots=True)
class View:
    """One object in one remembered frame."""

    seen: RememberedFrame
    mask: RememberedMask


def check_question(question: Question, settings: PerceptionSettings) -> None:
    """Refuse a question that cannot be asked, before anything is computed for it.

    Raises:
        BadQuestion: empty or too long a text, no or too many objects, a number of ``<region>`` that is
            neither 0 nor that of the objects, too many frames or tokens.
    """
    ids, text = question.object_ids, question.text
    if not text.replace(REGION_TAG, "").strip():
        raise BadQuestion(f"the question {text!r} has no words: ask something about the object")
    if len(text) > settings.max_question_chars:
        raise BadQuestion(
            f"the question has {len(text)} characters, the limit (max_question_chars) is "
            f"{settings.max_question_chars}: ask more briefly"
        )
    if not 1 <= len(ids) <= MAX_OBJECTS_PER_QUESTION:
        raise BadQuestion(f"the question names {len(ids)} objects: name 1 to {MAX_OBJECTS_PER_QUESTION}")
    regions = text.count(REGION_TAG)
    if regions not in (0, len(ids)):
        raise BadQuestion(
            f"the text has {regions} {REGION_TAG} for {len(ids)} objects: "
            "write one per object, in order, or none"
        )
    if not 0 <= question.frames <= settings.history_frames:
        raise BadQuestion(
            f"the question asks for {question.frames} frames: "
            f"at most {settings.history_frames} are remembered (history_frames)"
        )
    if not question.history_s >= 0:
        raise BadQuestion(f"history is {question.history_s} s: it cannot be negative")
    if not 0 <= question.max_tokens <= MAX_ANSWER_TOKENS:
        raise BadQuestion(
            f"max_tokens is {question.max_tokens}: at most {MAX_ANSWER_TOKENS} can be asked for"
        )


def choose_views(question: Question, memory: FrameMemory) -> list[list[View]]:
    """Which frames to look at, object by object, oldest first.

    Frames that show all the objects asked about are preferred, so that a comparison sees them at the same
    time; an object that was never seen together with the others is looked at where it was seen last.

    Raises:
        ObjectLost: no remembered frame shows one of the objects.
    """
    together = memory.showing(question.object_ids)
    views = []
    for object_id in question.object_ids:
        frames = together or memory.showing((object_id,))
        if not frames or memory.newest is None:
            raise ObjectLost(
                f"none of the {len(memory)} remembered images shows object {object_id}: "
                "wait until it is seen again, or correct it with a new region"
            )
        chosen = spread(frames, question.frames, question.history_s, memory.newest.frame.stamp_ns)
        views.append([View(seen, seen.masks[object_id]) for seen in chosen])
    return views


def encode_views(
    language: RegionLanguage, views: list[list[View]], cancelled: Callable[[], bool] = never
) -> list[list[TimedTokens]]:
    """The object tokens of every view: a frame's global features once, an object's tokens in it once.

    What is computed stays with the remembered frame and mask, for the next question.

    Args:
        language: the model.
        views: of each object.
        cancelled: looked at before every view.

    Returns:
        Per object its tokens in time order. With one frame for every object the times are None (an image);
        otherwise they count in seconds from the earliest frame looked at (paper, Sec. 4.3, videos).

    Raises:
        Cancelled: ``cancelled`` said so.
    """
    from pixelrefer_ros.model import TimedTokens  # torch loads slowly; who only tracks does without

    moving = any(len(of_object) > 1 for of_object in views)
    start_ns = min(view.seen.frame.stamp_ns for of_object in views for view in of_object)
    return [
        [
            TimedTokens(
                _tokens(language, view, cancelled),
                (view.seen.frame.stamp_ns - start_ns) / NANOSECONDS if moving else None,
            )
            for view in of_object
        ]
        for of_object in views
    ]


def _tokens(language: RegionLanguage, view: View, cancelled: Callable[[], bool]) -> ObjectTokens:
    if cancelled():
        raise Cancelled
    seen, mask = view.seen, view.mask
    if seen.global_features is None:
        seen.global_features = language.encode_global(seen.frame.rgb)
    if mask.tokens is None:
        mask.tokens = language.encode_object(seen.frame.rgb, mask.unpack(), seen.global_features)
    return mask.tokens
