# SPDX-License-Identifier: Apache-2.0
"""The whole job with no ROS and no thread of its own: frames and regions in, tracks and answers out."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from pixelrefer_ros.errors import Overloaded, PixelReferError
from pixelrefer_ros.perception.answering import AnswersTogether, Asked, TextListener, model_name
from pixelrefer_ros.perception.looking import RegionLanguage, View, check_question, choose_views
from pixelrefer_ros.perception.memory import SET_BACK_NS, FrameMemory, RememberedFrame
from pixelrefer_ros.perception.regions import check_region
from pixelrefer_ros.perception.registry import ObjectRegistry
from pixelrefer_ros.perception.settings import MAX_WAITING_REGIONS, PerceptionSettings
from pixelrefer_ros.perception.waiting import Prompt, log_refusal
from pixelrefer_ros.runtime import BackendInUse, never
from pixelrefer_ros.tracking import Tracker
from pixelrefer_ros.types import NANOSECONDS, Answer, AnswerStatus, Frame, Question, Region, Scene, Track

_log = logging.getLogger(__name__)
_CORRECTED = "the object was corrected while it was described: ask again"


class Perception:
    """Tracks objects through frames and answers questions about them.

    May be called from several threads. Three locks, taken in this order: ``_language`` while a question is
    answered, ``_tracking`` while the tracker works, ``_state`` for moments only. So `add_region`,
    `remove_object`, `clear` and `scene` never wait for a model. Called from one thread it is deterministic.

    Attributes:
        settings: may be replaced at any time; the history's bounds are those it began with.
        on_refused: told the object's id and the error when only the tracker could refuse a region, which
            `add_region` had accepted; logs by default.
    """

    def __init__(
        self, language: RegionLanguage, tracker: Tracker, settings: PerceptionSettings | None = None
    ) -> None:
        """Join a language model and a tracker; both belong to this object from now on."""
        self._model, self._tracker = language, tracker
        self.settings = settings or PerceptionSettings()
        self.on_refused: Callable[[int, PixelReferError], None] = log_refusal
        self._memory = FrameMemory(self.settings.history_frames, self.settings.history_interval_s)
        self._registry = ObjectRegistry()
        self._waiting: deque[Prompt] = deque()
        self._scene: Scene | None = None
        self._language = threading.Lock()
        self._tracking = threading.Lock()
        self._state = threading.RLock()

    @property
    def model(self) -> str:
        """Name and content hash of the language model."""
        return model_name(self._model)

    @property
    def backends(self) -> dict[str, BackendInUse]:
        """What runs the models: that of "model", and of "tracker" if that is a model, too."""
        tracker = self._tracker.in_use
        return {"model": self._model.in_use} | ({} if tracker is None else {"tracker": tracker})

    @property
    def next_object_id(self) -> int:
        """The id that the next new object will have. Who replaces a perception by another hands it on."""
        with self._state:
            return self._registry.next_id

    @next_object_id.setter
    def next_object_id(self, object_id: int) -> None:
        with self._state:
            self._registry.next_id = max(object_id, self._registry.next_id)

    def add_region(self, region: Region, frame: Frame | None = None) -> int:
        """Start an object, or correct one; the tracker takes it in before the next frame or question.

        Args:
            region: with its ``stamp_ns`` naming a remembered frame (0: the newest).
            frame: the frame it was drawn on, when that may not be remembered.

        Returns:
            The object's id.

        Raises:
            NoFrame: no frame has arrived, or none near the region's stamp was tracked and is remembered.
            EmptyRegion: the region covers no pixel of the frame.
            NoSuchObject: ``region.object_id`` is not 0 and not tracked.
            Overloaded: as many objects as allowed are tracked, or too many regions wait.
        """
        with self._state:
            seen = RememberedFrame(frame) if frame is not None else self._memory.at(region.stamp_ns)
            check_region(region, seen.frame)
            if len(self._waiting) >= MAX_WAITING_REGIONS:
                raise Overloaded(f"{MAX_WAITING_REGIONS} regions wait for the tracker: send fewer at a time")
            if region.object_id:
                record = self._registry.get(region.object_id)
                record.label = region.label or record.label
            else:
                record = self._registry.start(region.label, self.settings.max_objects)
            record.waiting += 1
            record.regions += 1
            seen.pointed_at = True
            self._waiting.append(Prompt(replace(region, object_id=record.object_id), seen))
            return record.object_id

    def remove_object(self, object_id: int) -> None:
        """Forget an object at once; the tracker frees its place before the next frame.

        Raises:
            NoSuchObject: it is not tracked.
        """
        with self._state:
            self._registry.remove(object_id)
            self._forget(object_id)

    def clear(self) -> None:
        """Forget every object."""
        with self._state:
            for record in self._registry.records():
                self._forget(record.object_id)
            self._registry.clear()

    def scene(self) -> Scene | None:
        """The newest tracked frame with its objects; None before the first."""
        with self._state:
            return self._scene

    def observe(self, frame: Frame) -> Scene:
        """Take in waiting regions, track every object to ``frame``, and remember it.

        It is remembered last: until then questions look at the frames before it, which show the objects.
        """
        with self._tracking:
            with self._state:
                seen = self._memory.arrived(frame)
            self._take_in_regions()
            tracks = self._tracker.track(frame)
            with self._state:
                return self._saw(seen, tracks)

    def apply_regions(self) -> None:
        """Take in waiting regions now, without waiting for the next frame."""
        with self._tracking:
            self._take_in_regions()

    def answer(
        self,
        question: Question,
        *,
        on_text: TextListener | None = None,
        cancelled: Callable[[], bool] = never,
    ) -> Answer:
        """Answer a question; whatever goes wrong is told by the answer's status and error.

        Args:
            question: what is asked.
            on_text: told the text so far, and the tokens so far, whenever there is more of it.
            cancelled: looked at before every token.
        """
        answers: list[Answer] = []
        only = iter([Asked(question, answers.append, on_text, cancelled)])
        self.answer_waiting(lambda: next(only, None))
        return answers[0]

    def answer_together(self, questions: Sequence[Question]) -> list[Answer]:
        """The answers to questions, in their order; several are decoded at once."""
        found: dict[int, Answer] = {}
        asked = iter([Asked(one, partial(found.__setitem__, place)) for place, one in enumerate(questions)])
        self.answer_waiting(lambda: next(asked, None))
        return [found[place] for place in range(len(questions))]

    def answer_waiting(self, waiting: Callable[[], Asked | None]) -> None:
        """Answer what waits, up to ``settings.max_batch`` questions at once, until nothing waits.

        Args:
            waiting: the next question, or None if none waits now; asked again whenever there is room.
        """
        with self._language:
            AnswersTogether(self._model, lambda: self.settings, self._views, waiting).run()

    def next_to_describe(self) -> int | None:
        """The object most in need of ``settings.describe_question``; None if there is none."""
        with self._state:
            if not self.settings.describe_question or self._scene is None:
                return None
            period_ns = round(self.settings.describe_period_s * NANOSECONDS)
            return self._registry.next_to_describe(self._scene.frame.stamp_ns, period_ns)

    def describe(self, object_id: int, *, cancelled: Callable[[], bool] = never) -> Answer:
        """Ask ``settings.describe_question`` about an object, and keep the answer as its description.

        One that is corrected meanwhile may be another thing: the answer is CANCELLED, and not kept.
        """
        question = Question(
            text=self.settings.describe_question, object_ids=(object_id,), id=f"describe-{object_id}"
        )
        with self._state:
            regions = self._registry.regions_of(object_id)
        answer = self.answer(question, cancelled=cancelled)
        with self._state:
            if self._registry.regions_of(object_id) > regions:
                return replace(answer, status=AnswerStatus.CANCELLED, error=_CORRECTED)
            if answer.status is not AnswerStatus.CANCELLED and object_id in self._registry:
                now_ns = self._scene.frame.stamp_ns if self._scene else 0
                self._registry.get(object_id).described(answer, now_ns)
                self._refresh_scene()
        return answer

    def _saw(self, seen: RememberedFrame, tracks: list[Track]) -> Scene:
        frame = seen.frame
        if self._scene is not None and self._scene.frame.stamp_ns - frame.stamp_ns > SET_BACK_NS:
            self._registry.clock_set_back(frame.stamp_ns)
        known = [track for track in tracks if track.object_id in self._registry]
        seen.record(known)
        self._memory.add(seen)
        objects = tuple(self._registry.get(t.object_id).seen(t, frame.stamp_ns) for t in known)
        self._scene = Scene(frame, objects)
        return self._scene

    def _forget(self, object_id: int) -> None:
        self._memory.forget(object_id)
        self._waiting = deque(job for job in self._waiting if job.region.object_id != object_id)
        if self._scene is not None:
            objects = tuple(o for o in self._scene.objects if o.track.object_id != object_id)
            self._scene = Scene(self._scene.frame, objects)

    def _take_in_regions(self) -> None:
        """Let the tracker forget what was removed, and give it what waits.

        One region at a time, so that a bad one, or a fault while it is taken in, spoils no other.
        """
        while True:
            with self._state:
                removed = [i for i in self._tracker.object_ids if i not in self._registry]
                job = self._waiting.popleft() if self._waiting else None
            for object_id in removed:
                self._tracker.remove(object_id)
            if job is None:
                return
            try:
                tracks = self._tracker.prompt(job.seen.frame, [job.region])
            except PixelReferError as error:
                self._refuse(job.region.object_id, error)
            except Exception as error:  # a GPU out of memory, say: the other objects are still followed
                _log.error("a region was not taken in", exc_info=error)
                fault = f"the tracker failed on its region ({type(error).__name__}: {error}): send it again"
                self._refuse(job.region.object_id, PixelReferError(fault))
            else:
                self._take_over(job, tracks)

    def _refuse(self, object_id: int, error: PixelReferError) -> None:
        with self._state:
            if object_id not in self._registry:
                return  # removed meanwhile
            record = self._registry.get(object_id)
            record.waiting -= 1
            if record.track is None and not record.waiting:  # it never began: nothing to fall back to
                self._registry.refuse(object_id, error)
        self.on_refused(object_id, error)

    def _take_over(self, job: Prompt, tracks: list[Track]) -> None:
        with self._state:
            known = [track for track in tracks if track.object_id in self._registry]
            for track in known:  # one removed meanwhile is left out; the tracker forgets it next
                record = self._registry.get(track.object_id)
                if record.track is not None:  # corrected: its masks may be of something else, as may what
                    self._memory.forget(track.object_id)  # the tracker knew; that forgets it, too
                record.taken_in(track, job.seen.frame.stamp_ns)
            job.seen.record(known)
            if self._scene is not None and self._scene.frame is job.seen.frame:
                self._refresh_scene(known)

    def _refresh_scene(self, tracks: Iterable[Track] = ()) -> None:
        """Let `scene` show what came after its frame was tracked: regions on that frame, descriptions."""
        if self._scene is None:
            return
        shown = {o.track.object_id: o.track for o in self._scene.objects}
        shown.update((track.object_id, track) for track in tracks)
        objects = tuple(self._registry.get(i).view(shown[i]) for i in sorted(shown) if i in self._registry)
        self._scene = Scene(self._scene.frame, objects)

    def _views(self, question: Question) -> list[list[View]]:
        check_question(question, self.settings)
        with self._state:
            self._memory.at(0)  # before the first image there is nothing to know an object from
            records = [self._registry.get(object_id) for object_id in question.object_ids]
            waiting = any(record.waiting for record in records)
        if waiting:
            self.apply_regions()
        with self._state:
            for object_id in question.object_ids:
                self._registry.get(object_id).check_findable()
            return choose_views(question, self._memory)
