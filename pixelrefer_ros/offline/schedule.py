# SPDX-License-Identifier: Apache-2.0
"""Which regions and questions of the files are due at a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pixelrefer_ros.offline.files import QuestionEntry, RegionEntry


@dataclass(slots=True)
class _Asked:
    """A question with where it stands: the stamp from which it is due again (None: never)."""

    entry: QuestionEntry
    started: bool = False
    due_ns: int | None = None


class Schedule:
    """Hands out each region once and each question as often as its file says, frame by frame.

    Stamps that go back are of a clock that was set back: the time from one frame to the other is not known,
    and counts as none. So what has passed since the first frame, and since a question was asked, stays so.
    """

    def __init__(self, regions: Sequence[RegionEntry], questions: Sequence[QuestionEntry]) -> None:
        """Begin before the first frame."""
        self._regions = list(regions)
        self._questions = [_Asked(entry) for entry in questions]
        self._first_ns: int | None = None
        self._newest_ns = 0

    def regions_due(self, index: int, stamp_ns: int) -> list[RegionEntry]:
        """The regions whose moment this frame is the first to reach, in the file's order.

        Args:
            index: the frame's index on its topic.
            stamp_ns: its stamp.
        """
        first_ns = self._advance(stamp_ns)
        due = [entry for entry in self._regions if entry.when.reached(index, stamp_ns, first_ns)]
        self._regions = [entry for entry in self._regions if entry not in due]
        return due

    def questions_due(self, index: int, stamp_ns: int) -> list[QuestionEntry]:
        """The questions to ask at this frame, in the file's order; not those meant for the end.

        A repeated question keeps its beat: a frame that comes late does not shift the ones after it, and a
        gap over several beats asks once.

        Args:
            index: the frame's index on its topic.
            stamp_ns: its stamp.
        """
        first_ns = self._advance(stamp_ns)
        due = []
        for asked in self._questions:
            entry = asked.entry
            if not asked.started:
                if entry.when is None or not entry.when.reached(index, stamp_ns, first_ns):
                    continue
                asked.started = True
                asked.due_ns = stamp_ns + entry.every_ns if entry.every_ns else None
            elif asked.due_ns is not None and stamp_ns >= asked.due_ns:
                beats = (stamp_ns - asked.due_ns) // entry.every_ns + 1
                asked.due_ns += beats * entry.every_ns
            else:
                continue
            due.append(entry)
        return due

    def at_end(self) -> list[QuestionEntry]:
        """The questions to ask after the last frame, in the file's order."""
        return [asked.entry for asked in self._questions if asked.entry.when is None]

    def never_due(self) -> tuple[list[RegionEntry], list[QuestionEntry]]:
        """The regions and questions whose moment no frame reached."""
        questions = [a.entry for a in self._questions if a.entry.when is not None and not a.started]
        return list(self._regions), questions

    def _advance(self, stamp_ns: int) -> int:
        """Go on to a frame; the stamp that its time since the first frame is counted from."""
        if self._first_ns is None:
            self._first_ns = stamp_ns
        elif stamp_ns < self._newest_ns:
            set_back_ns = self._newest_ns - stamp_ns
            self._first_ns -= set_back_ns
            for asked in self._questions:
                if asked.due_ns is not None:
                    asked.due_ns -= set_back_ns
        self._newest_ns = stamp_ns
        return self._first_ns
