# SPDX-License-Identifier: Apache-2.0
"""Perception driven by a recording and two files, every frame in order, with nothing running beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from pixelrefer_ros.errors import NoFrame, PixelReferError
from pixelrefer_ros.offline.files import QuestionEntry, RegionEntry
from pixelrefer_ros.offline.records import answer_record, region_record
from pixelrefer_ros.offline.schedule import Schedule
from pixelrefer_ros.offline.told_in_order import ToldInOrder
from pixelrefer_ros.perception import Asked, Perception
from pixelrefer_ros.types import Answer, AnswerStatus, Description, Frame, Question, Scene


@dataclass(slots=True)
class Outcome:
    """What came of a run.

    Attributes:
        frames: frames observed.
        answers: how many questions ended with each status.
        refused_regions: regions that could not be used.
    """

    frames: int = 0
    answers: Counter[AnswerStatus] = field(default_factory=Counter)
    refused_regions: int = 0

    @property
    def all_ok(self) -> bool:
        """Whether every region was taken and every question answered OK."""
        return not self.refused_regions and set(self.answers) <= {AnswerStatus.OK}


class ReplayRun:
    """One run; at each frame: the regions due, tracking, the questions due.

    A frame's picture is handed out when the next frame has come, so that the last one can show what is asked
    after the last frame.
    """

    def __init__(
        self,
        perception: Perception,
        regions: Sequence[RegionEntry],
        questions: Sequence[QuestionEntry],
        *,
        on_record: Callable[[dict[str, Any]], None],
        on_scene: Callable[[Scene], None] | None = None,
        timing: bool = True,
    ) -> None:
        """Join perception and the files.

        Args:
            perception: new: it has seen no frame.
            regions: of the regions file.
            questions: of the questions file.
            on_record: told each line of ``answers.jsonl`` as it comes.
            on_scene: told each frame's scene, once, with its objects' newest answers as descriptions.
            timing: whether the lines say how long things took.
        """
        self._perception = perception
        self._schedule = Schedule(regions, questions)
        self._on_record, self._on_scene, self._timing = on_record, on_scene, timing
        self._ids: dict[str, int] = {}
        self._refusals: dict[str, str] = {}
        self._said: dict[int, Description] = {}
        self._index: int | None = None
        self.outcome = Outcome()

    def run(self, frames: Iterable[tuple[int, Frame]]) -> Outcome:
        """Go through frames.

        Args:
            frames: with their index on the topic, in order.

        Returns:
            What came of it.
        """
        for index, frame in frames:
            if self.outcome.frames:
                self._show()
            self._index = index
            self._observe(frame)
            self._ask(self._schedule.questions_due(index, frame.stamp_ns))
            self.outcome.frames += 1
        self._ask(self._schedule.at_end())
        if self.outcome.frames:
            self._show()
        self._tell_never_due()
        return self.outcome

    def _observe(self, frame: Frame) -> None:
        for entry in self._schedule.regions_due(self._index or 0, frame.stamp_ns):
            error = self._take_in(entry, frame)
            if error is not None:
                self._refuse(entry, error, frame.stamp_ns)
        self._perception.observe(frame)

    def _take_in(self, entry: RegionEntry, frame: Frame) -> PixelReferError | None:
        """Start or correct an object, at once, so that what is refused is this entry; the refusal, if any."""
        known = self._ids.get(entry.name, 0)
        refused: dict[int, PixelReferError] = {}
        self._perception.on_refused = refused.__setitem__
        try:
            object_id = self._perception.add_region(replace(entry.region, object_id=known), frame)
        except PixelReferError as error:
            return error
        self._perception.apply_regions()
        if object_id in refused:  # a correction leaves its object as it was; a new one never began
            return refused[object_id]
        self._ids[entry.name] = object_id
        return None

    def _refuse(self, entry: RegionEntry, error: PixelReferError, stamp_ns: int) -> None:
        self.outcome.refused_regions += 1
        self._refusals[entry.name] = str(error)
        self._on_record(region_record(entry, error, frame=self._index, stamp_ns=stamp_ns))

    def _ask(self, entries: Sequence[QuestionEntry]) -> None:
        """Ask together what can be asked; an answer is written as soon as those before it are."""
        scene = self._perception.scene()
        lines: ToldInOrder[Answer] = ToldInOrder(
            lambda place, answer: self._finish(answer, entries[place], scene)
        )
        asked = []
        for place, entry in enumerate(entries):
            refusal = self._refusal(entry, scene)
            if refusal is None:
                on_answer = partial(lines.put, place)
                asked.append(Asked(self._question(entry), on_answer, cancelled=lines.has_failed))
            else:
                lines.put(place, refusal)
        waiting = iter(asked)
        try:
            self._perception.answer_waiting(lambda: next(waiting, None))
        finally:
            lines.finish()

    def _refusal(self, entry: QuestionEntry, scene: Scene | None) -> Answer | None:
        """The answer to a question that cannot be asked; None if it can."""
        question = self._question(entry)
        missing = [name for name in entry.objects if name not in self._ids]
        if scene is None:
            return self._unasked(question, AnswerStatus.NO_FRAME, "the recording has no readable image")
        if not missing:
            return None
        answer = self._unasked(question, AnswerStatus.NO_SUCH_OBJECT, self._why_missing(missing[0]))
        return replace(answer, stamp_ns=scene.frame.stamp_ns, frame_id=scene.frame.frame_id)

    def _question(self, entry: QuestionEntry) -> Question:
        """The question with its objects' ids; 0 stands for one that does not exist."""
        ids = tuple(self._ids.get(name, 0) for name in entry.objects)
        return Question(entry.text, ids, entry.id, entry.frames, entry.history_s, entry.max_tokens)

    def _why_missing(self, name: str) -> str:
        if name in self._refusals:
            return f"object {name!r} does not exist, its region was refused: {self._refusals[name]}"
        return f"object {name!r} does not exist yet at this frame; ask later, or draw its region earlier"

    def _unasked(self, question: Question, status: AnswerStatus, error: str) -> Answer:
        return Answer(question, status, model=self._perception.model, error=error)

    def _remember(self, answer: Answer) -> None:
        """Let the pictures show the newest answer about a single object."""
        if len(answer.question.object_ids) == 1 and answer.text:
            text = Description(answer.text, answer.stamp_ns, answer.confidence)
            self._said[answer.question.object_ids[0]] = text

    def _finish(self, answer: Answer, entry: QuestionEntry, scene: Scene | None) -> None:
        self._remember(answer)
        self.outcome.answers[answer.status] += 1
        objects = dict(zip(entry.objects, answer.question.object_ids, strict=True))
        self._on_record(
            answer_record(answer, frame=self._index, objects=objects, scene=scene, timing=self._timing)
        )

    def _show(self) -> None:
        scene = self._perception.scene()
        if self._on_scene is None or scene is None:
            return
        objects = tuple(
            replace(seen, description=self._said.get(seen.track.object_id, seen.description))
            for seen in scene.objects
        )
        self._on_scene(replace(scene, objects=objects))

    def _tell_never_due(self) -> None:
        """Say what the recording was too short for."""
        regions, questions = self._schedule.never_due()
        for entry in regions:
            self._refuse(entry, NoFrame(_too_late(entry.when)), 0)
        for unasked in questions:
            answer = self._unasked(self._question(unasked), AnswerStatus.NO_FRAME, _too_late(unasked.when))
            self._finish(answer, unasked, None)


def _too_late(when: object) -> str:
    return f"the recording ends before {when}; choose an earlier moment, or leave it out for the last frame"
