# SPDX-License-Identifier: Apache-2.0
"""What TensorRT says: to the log, and to whoever listens to one step."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_log = logging.getLogger(__name__)

HARMLESS = (re.compile(r"Make sure input \S+ has Int64 binding"),)
"""Warnings that say nothing of the graph. Int64: the type of every input is compared with the manifest's."""

MOST = 1000
"""More messages of one step than this are not kept."""

_UNUSED = re.compile(r"unused input", re.IGNORECASE)
_ERRORS = ("INTERNAL_ERROR", "ERROR")
_LEVELS = {**dict.fromkeys(_ERRORS, logging.ERROR), "WARNING": logging.WARNING}


class Messages:
    """What was said during one step.

    Attributes:
        errors: of severity error and above.
        warnings: but for the harmless ones.
    """

    def __init__(self) -> None:
        """See the class."""
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def add(self, severity: str, text: str) -> None:
        """Takes one message."""
        if len(self.errors) + len(self.warnings) >= MOST:
            return
        if severity in _ERRORS:
            self.errors.append(text)
        # The severity of this one changed between versions; dropping an input is never harmless.
        elif _UNUSED.search(text) or (
            severity == "WARNING" and not any(known.search(text) for known in HARMLESS)
        ):
            self.warnings.append(text)

    @property
    def unused_inputs(self) -> list[str]:
        """The warnings that tell of an input that is not read."""
        return [text for text in self.warnings if _UNUSED.search(text)]


_loggers: dict[int, Any] = {}


def logger_of(trt: ModuleType) -> Any:
    """The one logger that this process gives to that TensorRT.

    TensorRT keeps the first logger it is given and ignores later ones, so there can only be one.
    """
    if id(trt) not in _loggers:

        class Logger(trt.ILogger):  # type: ignore[name-defined, misc] # the module is an argument
            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.listeners: list[Messages] = []

            def log(self, severity: Any, msg: str) -> None:
                if not self.listeners:
                    _log.log(_LEVELS.get(severity.name, logging.DEBUG), "%s", msg)
                for messages in tuple(self.listeners):
                    messages.add(severity.name, msg)

        _loggers[id(trt)] = Logger()
    return _loggers[id(trt)]


@contextmanager
def heard(trt: ModuleType) -> Iterator[Messages]:
    """Collects what that TensorRT says within the block, in the whole process; it is not logged then."""
    logger, messages = logger_of(trt), Messages()
    logger.listeners.append(messages)
    try:
        yield messages
    finally:
        logger.listeners.remove(messages)
