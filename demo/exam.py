# SPDX-License-Identifier: Apache-2.0
"""What to ask about a shapes scene, and whether an answer is right: the world's own questions and facts.

Nothing is compared by its words. An answer is read as facts, and these are held against what is true in the
very images that the answer looked at, which it names by their stamps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pixelrefer_ros.training.world import EPOCH_NS, KINDS, Sight, parse, score
from pixelrefer_ros.training.world.course import choose_views
from pixelrefer_ros.training.world.questions import Asking, Draft
from pixelrefer_ros.types import Answer, AnswerStatus

VIDEO_FRAMES, HISTORY_S = 8, 3.0
"""What a question about motion or time looks at."""

_DRAWS = 40  # of a question, for one kind and object
_REDRAWS = 3000  # until the world asks a given question again; the rarest wordings come up once in 700


@dataclass(frozen=True, slots=True)
class Step:
    """One question of the exam.

    Attributes:
        kinds: of the world's questions; any of them will do.
        returned: it is about an object that was hidden a moment ago.
    """

    kinds: tuple[str, ...]
    returned: bool = False


PLAN = (
    Step(("hidden_when",), returned=True),
    Step(("category",), returned=True),
    Step(("describe_video",)),
    Step(("motion",)),
    Step(("category",)),
    Step(("color", "shape", "surface", "size")),
    Step(("is_attribute", "choice")),
    Step(("place",)),
    Step(("beside", "next_to", "is_beside")),
    Step(("larger", "same", "is_further", "furthest")),
    Step(("unknowable", "one_picture")),
    Step(("describe_brief",)),
)
"""What is asked, the most pressing first: what is possible only for a moment must not wait."""


@dataclass(frozen=True, eq=False, slots=True)
class Asked:
    """A question as it was put.

    Attributes:
        kind: which of the world's kinds.
        number: the scene's object that the world was asked about.
        chance: seed of the world's choices.
        draft: the question, and its truth at the moment of asking.
    """

    kind: str
    number: int
    chance: int
    draft: Draft

    @property
    def video(self) -> bool:
        """Whether it looks back over several images."""
        return KINDS[self.kind].views == "video"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer is right.

    Attributes:
        right: None where the images it looked at leave no clear truth: then it does not count.
        truth: a right answer, in words.
        reason: why it is wrong or does not count, where the two texts do not show it.
    """

    right: bool | None
    truth: str
    reason: str = ""


class Exam:
    """Asks about a scene that a camera plays, and marks the answers.

    Args:
        sight: the scene.
        start_ns: stamp of its first image.
    """

    def __init__(self, sight: Sight, start_ns: int = EPOCH_NS) -> None:
        self.sight = sight
        self._start_ns = start_ns
        self._back = round(HISTORY_S * sight.scene.rate_hz)

    def index(self, stamp_ns: int) -> int:
        """Which frame of the scene has a stamp."""
        return round((stamp_ns - self._start_ns) / 1e9 * self.sight.scene.rate_hz)

    def in_view(self, index: int) -> list[int]:
        """The objects that can be pointed at in a frame: enough of them is seen to say what they are."""
        return [n for n in range(len(self.sight.scene.objects)) if self.sight.recognizable(n, index)]

    def question(self, step: Step, index: int, since: Mapping[int, int], chance: int) -> Asked | None:
        """A question of a step that has a clear answer at a frame; None where there is none.

        Args:
            step: of the plan.
            index: the newest frame.
            since: the objects that may be asked about, and the frame from which on each is tracked; those
                first that should be asked about first.
            chance: what is left open is drawn from it: the kind, the wording, the other objects.
        """
        for number in since:
            if step.returned and not self.sight.gone(number)[max(index - self._back, 0) : index].any():
                continue
            for kind in np.random.default_rng(chance).permutation(step.kinds).tolist():
                views = self._views(kind, number, index, since[number])
                for seed in range(chance, chance + (_DRAWS if views else 0)):
                    draft = self._draft(kind, number, views, seed)
                    if draft is not None and set(draft.objects) <= set(since):
                        return Asked(kind, number, seed, draft)
        return None

    def moments(self, step: Step) -> Iterator[int]:
        """The frames at which a question of a step can be asked, if all in view at the start are tracked."""
        since = dict.fromkeys(self.in_view(0), 0)
        for index in range(self.sight.scene.frames):
            if self.question(step, index, since, 0) is not None:
                yield index

    def truth(self, asked: Asked, views: Sequence[int], *, plain: bool = True) -> Draft | None:
        """The same question with its truth at other frames; None where they leave it unclear.

        The world is asked again until it puts the very same question: its own choices first, which differ
        only where the truth does.

        Args:
            asked: the question.
            views: the frames.
            plain: whether times of hiding have to be plain from these frames, see `hiding_of`.
        """
        if not self.sight.recognizable(asked.number, views[-1]):
            return None
        for seed in (asked.chance, *range(_REDRAWS)):
            draft = self._draft(asked.kind, asked.number, tuple(views), seed, plain=plain)
            if draft is not None and (draft.question, draft.objects) == (
                asked.draft.question,
                asked.draft.objects,
            ):
                return draft
        return None

    def mark(self, asked: Asked, answer: Answer) -> Verdict:
        """Whether an answer is right of the images it looked at."""
        if answer.status not in (AnswerStatus.OK, AnswerStatus.TRUNCATED):
            return Verdict(False, asked.draft.answer, f"{answer.status.name}: {answer.error}")
        views = [self.index(stamp) for stamp in answer.frame_stamps_ns]
        views = views if asked.video else views[-1:]
        draft = self.truth(asked, views)
        if draft is None and asked.video:
            # Too short a gap to be held to; but who names its times says what is true of these frames.
            named = self.truth(asked, views, plain=False)
            if named is not None and _right(answer, named):
                return Verdict(True, named.answer)
            draft = self._faultless(asked, views)
        if draft is not None:
            return Verdict(_right(answer, draft), draft.answer)
        if self.sight.gone(asked.number)[views[-1]]:
            return Verdict(False, asked.draft.answer, "the mask shows something else: the object is hidden")
        return Verdict(None, asked.draft.answer, "the truth is unclear in the images looked at")

    def _faultless(self, asked: Asked, views: Sequence[int]) -> Draft | None:
        """The truth at the frames that a faultless tracker would have offered in the place of these."""
        first = min(views[0], max(views[-1] - self._back, 0))
        offered = choose_views(self.sight, (asked.number,), first, views[-1], VIDEO_FRAMES)
        return None if offered is None else self.truth(asked, offered)

    def _views(self, kind: str, number: int, index: int, since: int) -> tuple[int, ...]:
        if not self.sight.recognizable(number, index):
            return ()
        if KINDS[kind].views == "picture":
            return (index,)
        first = index - self._back
        if first < since:
            return ()
        return choose_views(self.sight, (number,), first, index, VIDEO_FRAMES) or ()

    def _draft(
        self, kind: str, number: int, views: tuple[int, ...], seed: int, *, plain: bool = True
    ) -> Draft | None:
        return KINDS[kind].make(Asking(np.random.default_rng(seed), self.sight, number, views, plain))


def _right(answer: Answer, draft: Draft) -> bool:
    return score(parse(answer.text), draft.facts, draft.known, draft.alternatives).correct
