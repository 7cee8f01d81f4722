# SPDX-License-Identifier: Apache-2.0
"""What happened lately: counters and durations for diagnostics, bounded."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager

_REMEMBERED_DURATIONS = 200


class Statistics:
    """Thread-safe counters, and the newest durations of each stage."""

    def __init__(self) -> None:
        """Nothing has happened yet."""
        self._lock = threading.Lock()
        self._counters: Counter[str] = Counter()
        self._stages: defaultdict[str, deque[float]] = defaultdict(
            lambda: deque(maxlen=_REMEMBERED_DURATIONS)
        )

    def count(self, name: str) -> None:
        """One more of ``name``."""
        with self._lock:
            self._counters[name] += 1

    def took(self, stage: str, seconds: float) -> None:
        """A stage took so long."""
        with self._lock:
            self._stages[stage].append(seconds)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Time the block as one run of ``stage``."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.took(stage, time.monotonic() - start)

    def snapshot(self) -> tuple[dict[str, int], dict[str, list[float]]]:
        """Counters since the start, and the newest durations of every stage, s."""
        with self._lock:
            return dict(self._counters), {name: list(values) for name, values in self._stages.items()}
