# SPDX-License-Identifier: Apache-2.0
"""The folder of engines: what is up to date stays, what is not is built again, one process at a time."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pixelrefer_ros.engines.build import BuiltEngine

from pixelrefer_ros.errors import BackendError
from pixelrefer_ros.runtime import never
from pixelrefer_ros.runtime.tensorrt_plans import (
    EngineKey,
    EngineRecord,
    read_plan,
    read_record,
    record_path,
    write_record,
)
from pixelrefer_ros.runtime.whole_files import PART, write_whole

LOCK, TIMINGS = "building.lock", "timings.cache"
_LOOK_AGAIN_S = 0.2
_BROKEN = ".broken"
_DIGITS = 12
"""Of a plan's hash, in its name."""
_HALF = re.compile(
    rf"(?:.+\.[0-9a-f]{{{_DIGITS}}}\.plan|.+\.engine\.json|{re.escape(TIMINGS)})\.\d+{re.escape(PART)}"
)
"""A file that is not yet whole (see `write_whole`). The folder may be anybody's, with other files in it."""

Say = Callable[[str], None]
"""Takes one line for people."""


@dataclass(frozen=True)
class EngineStore:
    """A folder of engines.

    Attributes:
        folder: made when the first engine is built.
        say: takes one line for each thing that happens.
        stopped: asked while another process is waited for; True ends the waiting.
    """

    folder: Path
    say: Say
    stopped: Callable[[], bool] = never

    def ensure(
        self, graph: str, key: EngineKey, build: Callable[[], BuiltEngine], *, again: bool = False
    ) -> bool:
        """Makes sure that the engine of a graph is there, whole, and built for `key`.

        Another process that builds in this folder is waited for; what it has built is not built again.

        Args:
            graph: its name.
            key: all that the engine depends on.
            build: called if it must be built.
            again: build it in any case.

        Returns:
            True if it was built.

        Raises:
            BackendError: `build` fails, or the folder cannot be written (a full disk: nothing half is left,
                and the engine that was there stays).
        """
        with self._locked():
            reason = "asked for" if again else self._reason(graph, key)
            if reason is None:
                self.say(f"{graph}: up to date")
                return False
            self.say(f"{graph}: building ({reason})")
            started = time.monotonic()
            built = build()
            self._keep(graph, key, built)
            for note in built.notes:
                self.say(f"{graph}: {note}")
            self.say(f"{graph}: built in {time.monotonic() - started:.0f} s, {built.plan_bytes / 1e6:.1f} MB")
            return True

    def _reason(self, graph: str, key: EngineKey) -> str | None:
        """Why an engine must be built; None: it need not be. What is broken is set aside."""
        try:
            record = read_record(self.folder, graph)
        except BackendError as error:
            path = record_path(self.folder, graph)
            self._set_aside(path, path.name)
            return str(error)
        if record is None:
            return "there is none"
        changes = record.key.changes(key)
        if changes:
            return "; ".join(changes)
        try:
            read_plan(self.folder, record)
        except BackendError as error:
            self._set_aside(self.folder / record.file, f"{graph}.plan")
            return str(error)
        return None

    def _set_aside(self, path: Path, name: str) -> None:
        """Keeps a broken file for people to look at, where nothing reads it; of each name the newest only."""
        aside = path.with_name(f"{name}{_BROKEN}")
        try:
            os.replace(path, aside)
        except FileNotFoundError:  # it is gone: there is nothing to look at
            return
        except OSError as error:  # nothing needs it: what is built takes its place all the same
            self.say(f"{path} is broken and cannot be set aside ({error})")
            return
        self.say(f"set aside as {aside}")

    def _keep(self, graph: str, key: EngineKey, built: BuiltEngine) -> None:
        # The plan's name holds its hash: until the new record names it, the old record and plan stay valid.
        digest = hashlib.sha256(built.plan).hexdigest()
        plan = self.folder / f"{graph}.{digest[:_DIGITS]}.plan"
        try:
            write_whole(plan, built.plan)
            write_record(self.folder, graph, EngineRecord(key, plan.name, digest, built.profiles))
        except OSError as error:
            if plan.name != self._named(graph):
                self._remove(plan)
            full = "the disk is full" if error.errno == errno.ENOSPC else str(error)
            raise BackendError(
                f"{plan} ({built.plan_bytes} bytes) cannot be written: {full}; make room, or give another "
                "folder with --engines (the node: engine_dir)"
            ) from error
        for old in self.folder.glob(f"{graph}.{'[0-9a-f]' * _DIGITS}.plan"):
            if old != plan:
                self._remove(old)

    def _named(self, graph: str) -> str | None:
        """The plan that a graph's record names; None: there is no record that can be read."""
        try:
            record = read_record(self.folder, graph)
        except BackendError:
            return None
        return record.file if record else None

    def _remove(self, plan: Path) -> None:
        try:
            plan.unlink(missing_ok=True)
        except OSError as error:
            self.say(f"{plan} is not needed and cannot be removed ({error})")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / LOCK).open("a")
        except OSError as error:
            raise BackendError(
                f"engines cannot be kept in {self.folder} ({error}): give another folder with --engines "
                "(the node: engine_dir)"
            ) from error
        with lock:
            waiting = False
            while True:
                try:
                    # Freed by the system when the process ends, however it ends.
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not waiting:
                        self.say(f"another process builds engines in {self.folder}: waiting for it")
                    waiting = True
                    if self.stopped():
                        raise BackendError(f"stopped while waiting for {self.folder / LOCK}") from None
                    time.sleep(_LOOK_AGAIN_S)
            for half in self.folder.glob(f"*{PART}"):
                if _HALF.fullmatch(half.name):  # of a process that ended while it wrote
                    half.unlink(missing_ok=True)
            yield
