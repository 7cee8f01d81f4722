# SPDX-License-Identifier: Apache-2.0
"""Whether the node does its work: what the level and the text of its diagnostics are decided by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus

_STALE_S = 2.0
_STUCK_S = 30.0
"""The first picture on a GPU takes seconds; one that takes so long will hardly ever be tracked."""


class Health:
    """Judges from one look to the next."""

    def __init__(self) -> None:
        """Nothing has been tracked yet, and nothing has failed."""
        self._tracked, self._failed_then = 0, 0

    def judge(
        self, *, image_age_s: float | None, frame_age_s: float, stats: Mapping[str, Any] | None
    ) -> tuple[bytes, str]:
        """Level and text for people.

        Args:
            image_age_s: seconds since an image arrived; None while switched off.
            frame_age_s: seconds since an image could be read.
            stats: of `LivePerception`; None while switched off.

        Returns:
            A level of ``DiagnosticStatus``, and one line.
        """
        failing = self._fails(stats or {})
        if image_age_s is None or stats is None:
            return DiagnosticStatus.OK, "switched off"
        if image_age_s > _STALE_S:
            text = "no image arrives: check the image topic, its QoS and image_transport"
            return DiagnosticStatus.WARN, text
        if frame_age_s > _STALE_S:
            return DiagnosticStatus.ERROR, "images arrive and none can be read: the log says why"
        if failing:
            return DiagnosticStatus.ERROR, "images arrive and none can be tracked: the log says why"
        if stats["tracking_for_s"] > _STUCK_S:
            text = f"the tracker has been at one image for {stats['tracking_for_s']:.0f} s"
            return DiagnosticStatus.ERROR, f"{text}: it hangs, or the device is much too slow for it"
        return DiagnosticStatus.OK, "working"

    def _fails(self, stats: Mapping[str, Any]) -> bool:
        """Whether frames have failed since one was last tracked."""
        tracked, failed = stats.get("frames_tracked", 0), stats.get("frames_failed", 0)
        if tracked != self._tracked or failed < self._failed_then:  # counters begin anew when switched on
            self._tracked, self._failed_then = tracked, failed
        return failed > self._failed_then
