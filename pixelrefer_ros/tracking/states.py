# SPDX-License-Identifier: Apache-2.0
"""When an object counts as TRACKED, OCCLUDED or LOST."""

from __future__ import annotations

from dataclasses import dataclass

from pixelrefer_ros.errors import ParameterError
from pixelrefer_ros.types import NANOSECONDS, TrackState


@dataclass(frozen=True, slots=True)
class StateRules:
    """The rules that turn an object score and a mask area into a state.

    An object is visible when its score reaches ``score_threshold`` and its mask is neither smaller than
    ``min_area_px`` nor larger than ``max_area_fraction`` of the frame (a tracker that has lost its object
    sometimes marks the whole picture; such a mask takes no other object's pixels, and the object counts
    as absent). It is OCCLUDED while it is not visible, and LOST when that has lasted for
    ``lost_after_frames`` processed frames or ``lost_after_s`` seconds of frame stamps, whichever comes
    first. LOST lasts until a region corrects the object; with ``find_again_score`` the object is still
    searched for, and counts as found when its score reaches that value; a match below it counts as a
    look-alike: it has no mask, takes no other object's pixels and is not remembered. The default does not
    search: after a long absence the likeliest match is a look-alike, and a LOST object costs no computation.

    Objects are kept ``apart``: where the masks of two overlap that did not when they were pointed at, one of
    them is mistaken, and is OCCLUDED if hardly anything else is left of it, see `keep_apart`.

    Frames in which an object is absent are not remembered. The first that show a sliver of it again often
    count as such; remembered, they say that what looks so is not the object, and it is never found again
    though it is in full view. SAM 2 itself remembers every frame (``remembers_absence``).

    Parts of a mask that are smaller than ``smallest_part`` of its largest one are not reported, see
    `without_specks`.

    Attributes:
        score_threshold: probability in [0.5, 1]; SAM 2 itself empties masks that score below 0.5.
        min_area_px: smallest visible mask, pixels of the frame.
        max_area_fraction: largest visible mask, fraction of the frame in (0, 1].
        lost_after_frames: processed frames without the object.
        lost_after_s: seconds without the object; None: frames alone decide.
        find_again_score: probability in [0.5, 1], or None.
        smallest_part: share of the largest part, in [0, 1]; 0: all parts are reported.
        apart: whether objects that are followed rule each other out; False: each is followed by itself.
        remembers_absence: whether an object's memory takes up frames in which it is absent.

    Raises:
        ParameterError: a value outside its bounds.
    """

    score_threshold: float = 0.5
    min_area_px: int = 1
    max_area_fraction: float = 0.95
    lost_after_frames: int = 30
    lost_after_s: float | None = None
    find_again_score: float | None = None
    smallest_part: float = 0.1
    apart: bool = True
    remembers_absence: bool = False

    def __post_init__(self) -> None:
        """Check the bounds."""
        checks = {
            "score_threshold": (0.5 <= self.score_threshold <= 1, "in [0.5, 1]"),
            "min_area_px": (self.min_area_px >= 0, "0 or more"),
            "max_area_fraction": (0 < self.max_area_fraction <= 1, "in (0, 1]"),
            "lost_after_frames": (self.lost_after_frames >= 1, "1 or more"),
            "lost_after_s": (self.lost_after_s is None or self.lost_after_s > 0, "above 0, or None"),
            "find_again_score": (
                self.find_again_score is None or 0.5 <= self.find_again_score <= 1,
                "in [0.5, 1], or None",
            ),
            "smallest_part": (0 <= self.smallest_part <= 1, "in [0, 1]"),
        }
        for name, (good, bounds) in checks.items():
            if not good:
                raise ParameterError(f"{name} is {getattr(self, name)}: give a value {bounds}")

    def visible(self, score: float, area_px: int, frame_px: int) -> bool:
        """Whether an object with this score and mask area is seen in a frame of ``frame_px`` pixels."""
        within_area = self.min_area_px <= area_px <= self.max_area_fraction * frame_px
        return score >= self.score_threshold and within_area


@dataclass(slots=True)
class Visibility:
    """How long one object has not been seen.

    Attributes:
        state: the newest state.
        unseen_frames: processed frames since the object was last visible.
        seen_ns: stamp of the frame in which it was last visible or prompted, ns.
    """

    state: TrackState = TrackState.TRACKED
    unseen_frames: int = 0
    seen_ns: int = 0

    @classmethod
    def prompted(cls, visible: bool, stamp_ns: int) -> Visibility:
        """Start counting at a region given at ``stamp_ns``."""
        return cls(TrackState.TRACKED if visible else TrackState.OCCLUDED, 0, stamp_ns)

    def observed(self, visible: bool, score: float, stamp_ns: int, rules: StateRules) -> TrackState:
        """One more frame was processed; return the state in it."""
        if self.state == TrackState.LOST:
            visible = visible and rules.find_again_score is not None and score >= rules.find_again_score
        if visible:
            self.state, self.unseen_frames, self.seen_ns = TrackState.TRACKED, 0, stamp_ns
            return self.state
        self.unseen_frames += 1
        self.seen_ns = min(self.seen_ns, stamp_ns)  # a clock that was set back: its time counts from there
        unseen_s = (stamp_ns - self.seen_ns) / NANOSECONDS
        too_long = rules.lost_after_s is not None and unseen_s >= rules.lost_after_s
        if self.state == TrackState.LOST or too_long or self.unseen_frames >= rules.lost_after_frames:
            self.state = TrackState.LOST
        else:
            self.state = TrackState.OCCLUDED
        return self.state
