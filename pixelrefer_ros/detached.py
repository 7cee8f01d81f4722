# SPDX-License-Identifier: Apache-2.0
"""Long work in a thread of its own, so that a program can be stopped while it goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Detached(Generic[T]):
    """One piece of work; may be abandoned, never interrupted."""

    def __init__(self, work: Callable[[], T], name: str) -> None:
        """Not yet started.

        Args:
            work: called once, on the new thread.
            name: of the thread.
        """
        self._work = work
        self._results: list[T] = []
        self._error: Exception | None = None
        # Not the thread's own `join`: interrupted, it takes the thread for ended (Python 3.10 to 3.12).
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start it."""
        self._thread.start()

    def done(self, timeout_s: float) -> bool:
        """Wait so long at most; True if the work has ended, one way or the other."""
        return self._ended.wait(timeout_s)

    def result(self) -> T:
        """What it gave, once `done`.

        Raises:
            Exception: whatever the work raised.
        """
        if not self._results:
            raise self._error or RuntimeError(f"{self._thread.name} has not ended")
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except Exception as error:  # told by `result`, on the thread that waits for it
            self._error = error
        finally:
            self._ended.set()
