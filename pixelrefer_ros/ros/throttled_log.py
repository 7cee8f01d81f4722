# SPDX-License-Identifier: Apache-2.0
"""Warnings that may come at camera rate: one line per kind and period, with the count."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any


class ThrottledLog:
    """Counts warnings by kind, and logs the first of each kind at once, then one line per period."""

    def __init__(self, logger: Any, period_s: float = 5.0) -> None:
        """Log to an rclpy logger, each kind at most once in `period_s` seconds of the steady clock."""
        self._logger = logger
        self._period_s = period_s
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._logged_at: dict[str, float] = {}

    def warn(self, kind: str, text: str) -> None:
        """Count a warning of this kind; `text` is logged if it is this kind's turn."""
        now = time.monotonic()
        with self._lock:
            self._counts[kind] += 1
            count = self._counts[kind]
            if now - self._logged_at.get(kind, -self._period_s) < self._period_s:
                return
            self._logged_at[kind] = now
        self._logger.warning(f"{kind} refused ({count} so far): {text}")

    def counts(self) -> dict[str, int]:
        """Warnings of each kind until now."""
        with self._lock:
            return dict(self._counts)
