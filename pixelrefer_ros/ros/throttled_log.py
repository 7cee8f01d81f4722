# SPDX-License-Identifier: Apache-2.0
"""Warnings that may come at camera rate: one line per reason and period, with the count."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from typing import Any

_MAX_REASONS = 64
_NUMBER = re.compile(r"\d+")


class ThrottledLog:
    """Counts what goes wrong by kind, and logs each reason at once, then one line per period."""

    def __init__(self, logger: Any, period_s: float = 5.0) -> None:
        """Log to an rclpy logger, each reason at most once in `period_s` seconds of the steady clock."""
        self._logger = logger
        self._period_s = period_s
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._logged_at: dict[tuple[str, str], float] = {}

    def warn(self, kind: str, text: str) -> None:
        """Count one of this kind; `text` says why, and is logged if it is this reason's turn.

        Texts that differ in numbers only are one reason.
        """
        now = time.monotonic()
        reason = (kind, _NUMBER.sub("#", text))
        with self._lock:
            self._counts[kind] += 1
            count = self._counts[kind]
            if reason not in self._logged_at and len(self._logged_at) >= _MAX_REASONS:
                reason = (kind, "")  # somebody makes reasons up: these share one line
            if now - self._logged_at.get(reason, -self._period_s) < self._period_s:
                return
            self._logged_at[reason] = now
        self._logger.warning(f"{kind} ({count} so far): {text}")

    def counts(self) -> dict[str, int]:
        """How many of each kind there were until now."""
        with self._lock:
            return dict(self._counts)
