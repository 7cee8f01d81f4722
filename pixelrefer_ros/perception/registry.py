# SPDX-License-Identifier: Apache-2.0
"""The objects perception knows: their ids, names, life and descriptions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from pixelrefer_ros.errors import NoSuchObject, ObjectLost, Overloaded, PixelReferError
from pixelrefer_ros.types import (
    NANOSECONDS,
    Answer,
    AnswerStatus,
    Description,
    Track,
    TrackedObject,
    TrackState,
)

_REMEMBERED_REFUSALS = 256
_RETRY_DESCRIPTION_NS = NANOSECONDS


@dataclass(eq=False, slots=True)
class ObjectRecord:
    """What is remembered of one object.

    Attributes:
        object_id: positive.
        label: the name its region gave it.
        regions: regions given for it so far.
        waiting: those of them that the tracker has not taken in yet.
        track: where it was in the newest tracked frame; None until its first region is taken in.
        first_seen_ns, last_seen_ns: first and newest frame in which it was TRACKED; 0: never.
        description: the newest description.
        described_ns: stamp of the newest frame when it was last described, or could not be; None: it is to be
            described at once.
        description_failed: the last attempt did.
    """

    object_id: int
    label: str
    regions: int = 0
    waiting: int = 0
    track: Track | None = None
    first_seen_ns: int = 0
    last_seen_ns: int = 0
    description: Description | None = None
    described_ns: int | None = None
    description_failed: bool = False

    def seen(self, track: Track, stamp_ns: int) -> TrackedObject:
        """Take in where it is in the frame of ``stamp_ns``, and give the public view of it."""
        self.track = track
        if track.state is TrackState.TRACKED:
            self.first_seen_ns = self.first_seen_ns or stamp_ns
            self.last_seen_ns = max(self.last_seen_ns, stamp_ns)
        return self.view(track)

    def taken_in(self, track: Track, stamp_ns: int) -> None:
        """The tracker has taken in a region of it: what was said of it before may be about something else."""
        self.waiting -= 1
        self.seen(track, stamp_ns)
        self.described_ns = None

    def check_findable(self) -> None:
        """Refuse to speak of it when it is LOST: what the tracker last saw may be long gone.

        Raises:
            ObjectLost: it is.
        """
        if self.track is not None and self.track.state is TrackState.LOST:
            raise ObjectLost(
                f"object {self.object_id} is lost (last seen at stamp {self.last_seen_ns} ns): "
                "correct it with a new region"
            )

    def described(self, answer: Answer, now_ns: int) -> None:
        """Keep an answer as its description; a failed one leaves the description as it was.

        Args:
            answer: to the question that describes it.
            now_ns: stamp of the newest frame.
        """
        self.described_ns = now_ns
        self.description_failed = answer.status not in (AnswerStatus.OK, AnswerStatus.TRUNCATED)
        if not self.description_failed:
            self.description = Description(answer.text, answer.stamp_ns, answer.confidence)

    def describe_from_ns(self, period_ns: int) -> int | None:
        """The stamp from which on it is to be described; None: never again.

        Args:
            period_ns: how long a description is good for; 0: for ever.
        """
        if self.described_ns is None:
            return 0
        if self.description_failed:
            return self.described_ns + max(period_ns, _RETRY_DESCRIPTION_NS)
        return self.described_ns + period_ns if period_ns else None

    def view(self, track: Track) -> TrackedObject:
        """The public, frozen view of it."""
        return TrackedObject(track, self.label, self.first_seen_ns, self.last_seen_ns, self.description)


class ObjectRegistry:
    """Ids are positive, count up, and are never used again. Not thread-safe; its owner locks."""

    def __init__(self) -> None:
        """Know no object yet."""
        self._records: dict[int, ObjectRecord] = {}
        self.next_id = 1
        self._refused: OrderedDict[int, tuple[type[PixelReferError], str]] = OrderedDict()

    def __contains__(self, object_id: object) -> bool:
        """Whether the object is known."""
        return object_id in self._records

    def __len__(self) -> int:
        """How many objects are known."""
        return len(self._records)

    def records(self) -> Iterable[ObjectRecord]:
        """Every object, in the order of their ids."""
        return tuple(self._records.values())

    def get(self, object_id: int) -> ObjectRecord:
        """One object.

        Raises:
            NoSuchObject: the id is not known; or the error with which its region was refused, again.
        """
        if object_id in self._records:
            return self._records[object_id]
        if object_id in self._refused:
            kind, text = self._refused[object_id]
            raise kind(text)
        raise self._unknown(object_id)

    def regions_of(self, object_id: int) -> int:
        """How many regions were given for an object; 0 if it is not known."""
        return self._records[object_id].regions if object_id in self._records else 0

    def start(self, label: str, limit: int) -> ObjectRecord:
        """A new object.

        Raises:
            Overloaded: ``limit`` objects are known already.
        """
        if len(self._records) >= limit:
            raise Overloaded(f"{limit} objects are tracked, the limit (max_objects): remove one first")
        record = ObjectRecord(self.next_id, label)
        self._records[record.object_id] = record
        self.next_id += 1
        return record

    def remove(self, object_id: int) -> None:
        """Forget one object.

        Raises:
            NoSuchObject: the id is not known.
        """
        if object_id not in self._records:
            raise self._unknown(object_id)
        del self._records[object_id]

    def next_to_describe(self, now_ns: int, period_ns: int) -> int | None:
        """The visible object whose description has been due the longest at a stamp; None: none is due.

        Args:
            now_ns: stamp of the newest frame.
            period_ns: how long a description is good for; 0: for ever.
        """
        due = [
            (since_ns, record.object_id)
            for record in self._records.values()
            if (since_ns := record.describe_from_ns(period_ns)) is not None
            and since_ns <= now_ns
            and record.track is not None
            and record.track.state is TrackState.TRACKED
        ]
        return min(due)[1] if due else None

    def clock_set_back(self, now_ns: int) -> None:
        """Stamps have gone back to this one: what was noted by later ones would be in the future."""
        for record in self._records.values():
            record.first_seen_ns = record.last_seen_ns = 0
            if record.described_ns is not None:
                record.described_ns = min(record.described_ns, now_ns)

    def refuse(self, object_id: int, error: PixelReferError) -> None:
        """Forget an object whose region the tracker refused; `get` will say why."""
        self._records.pop(object_id, None)
        # Not the error itself: its traceback would keep the picture that the region was drawn on.
        text = f"{error}; object {object_id} never began: give its region as that of a new one (object_id 0)"
        self._refused[object_id] = type(error), text
        while len(self._refused) > _REMEMBERED_REFUSALS:
            self._refused.popitem(last=False)

    def _unknown(self, object_id: int) -> NoSuchObject:
        known = ", ".join(map(str, self._records)) or "none"
        return NoSuchObject(f"object {object_id} is not tracked (tracked: {known}): add a region first")

    def clear(self) -> None:
        """Forget every object."""
        self._records.clear()
