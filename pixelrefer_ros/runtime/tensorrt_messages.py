# SPDX-License-Identifier: Apache-2.0
"""What TensorRT says: to the log, and to whoever listens to one step."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_log = logging.getLogger(__name__)

HARMLESS = (re.compile(r"Make sure input \S+ has Int64 binding"),)
"""Warnings that say nothing of the graph. Int64: the type of every input is compared with the manifest's."""

MOST = 1000
"""More errors, or more warnings, of one step than this are not kept."""
SHOWN, SHOWN_CHARS = 5, 400
"""Of many messages so many are shown to people, each cut there."""

_UNUSED = re.compile(r"unused input", re.IGNORECASE)
_ERRORS = ("INTERNAL_ERROR", "ERROR")


class Messages:
    """What was said during one step, each text once.

    Args:
        keep: the least severe that is kept, as a level of `logging`.

    Attributes:
        errors: of severity error and above.
        warnings: but for the harmless ones.
    """

    def __init__(self, keep: int = logging.WARNING) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self._keep = keep

    def add(self, level: int, text: str) -> bool:
        """Takes one message; False if it is none that is kept here."""
        if level < self._keep:
            return False
        kept = self.errors if level >= logging.ERROR else self.warnings
        if len(kept) < MOST and text not in kept:
            kept.append(text)
        return True

    @property
    def unused_inputs(self) -> list[str]:
        """The warnings that tell of an input that is not read."""
        return [text for text in self.warnings if _UNUSED.search(text)]


def shown(texts: Sequence[str]) -> list[str]:
    """Messages for people: the first few that differ, a line each, and how many more there are."""
    lines = list(dict.fromkeys(" ".join(text.split())[:SHOWN_CHARS] for text in texts))
    return lines[:SHOWN] + ([f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else [])


_loggers: dict[int, Any] = {}


def logger_of(trt: ModuleType) -> Any:
    """The one logger that this process gives to that TensorRT.

    TensorRT keeps the first logger it is given and ignores later ones, so there can only be one. What nobody
    listens to is logged; a warning that comes again (at each run, say) only once.
    """
    if id(trt) not in _loggers:

        class Logger(trt.ILogger):  # type: ignore[name-defined, misc] # the module is an argument
            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.listeners: list[Messages] = []
                self._logged: set[str] = set()

            def log(self, severity: Any, msg: str) -> None:
                level = _level(severity.name, msg)
                if any([messages.add(level, msg) for messages in tuple(self.listeners)]):
                    return
                if level == logging.WARNING:
                    if msg in self._logged:
                        return
                    if len(self._logged) < MOST:
                        self._logged.add(msg)
                _log.log(level, "TensorRT: %s", msg)

        _loggers[id(trt)] = Logger()
    return _loggers[id(trt)]


@contextmanager
def heard(trt: ModuleType, keep: int = logging.WARNING) -> Iterator[Messages]:
    """Collects what that TensorRT says within the block, in the whole process; it is not logged then.

    Args:
        trt: the module.
        keep: see `Messages`: `logging.ERROR` leaves warnings to the log, where nobody else tells them.
    """
    logger, messages = logger_of(trt), Messages(keep)
    logger.listeners.append(messages)
    try:
        yield messages
    finally:
        logger.listeners.remove(messages)


def _level(severity: str, text: str) -> int:
    if severity in _ERRORS:
        return logging.ERROR
    # The severity of this one changed between versions; dropping an input is never harmless.
    if _UNUSED.search(text):
        return logging.WARNING
    if severity == "WARNING" and not any(known.search(text) for known in HARMLESS):
        return logging.WARNING
    return logging.DEBUG
