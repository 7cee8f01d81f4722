# SPDX-License-Identifier: Apache-2.0
"""What `gpu.py` runs, in which order, and the file that its results go to. Standard library alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_page import BACKENDS, MEASURED

MARK = "RESULT "
"""How a line of a job begins that is a result."""
LANGUAGE, TRACKER = ("objects", "decode"), ("tracker",)
SHAPES = ("2b", "7b")
NOT_REACHED, NO_TIME = "the run ended before", "no time was left"
_NOT_MEASURED = {"status": "not measured", "reason": NOT_REACHED}
_OF_A_MEASUREMENT = ("commit", "gpu", "torch", "cuda")
"""What of the environment two runs must share to stand in one table."""


@dataclass(frozen=True)
class Job:
    """Parts that share a process and a model.

    Attributes:
        what: "language" or "tracker".
        shape: of the model.
        backend: that runs it.
        parts: to measure, in order.
    """

    what: str
    shape: str
    backend: str
    parts: tuple[str, ...]


def plan(parts: Sequence[str], shapes: Sequence[str], backends: Sequence[str], *, smoke: bool) -> list[Job]:
    """The jobs, those first that are short and tell most: a build of engines takes minutes."""
    jobs = []
    of_language = tuple(part for part in LANGUAGE if part in parts)
    of_tracker = tuple(part for part in TRACKER if part in parts)
    for backend in (backend for backend in BACKENDS if backend in backends):
        language = [Job("language", shape, backend, of_language) for shape in shapes]
        tracker = [Job("tracker", "smoke" if smoke else "sam2.1-tiny", backend, of_tracker)]
        jobs += [job for job in (*language[:1], *tracker, *language[1:]) if job.parts]
    return jobs


class Report:
    """The file of results: whole after every change, whenever the machine goes.

    What it has of an earlier run of the same commit on the same GPU stays until it is measured anew.

    Attributes:
        fields: of the file, besides the rows.
        environment: what this run's jobs find; empty until the first says it.
    """

    def __init__(self, path: Path, fields: dict[str, Any], jobs: Sequence[Job]) -> None:
        """Every part that the file does not have begins as not measured."""
        self._path = path
        self._rows = {
            _key(job, part): {"part": part, "shape": job.shape, "backend": job.backend} | _NOT_MEASURED
            for job in jobs
            for part in job.parts
        }
        self.fields: dict[str, Any] = fields | {"environment": {}, "builds": {}}
        self.environment: dict[str, Any] = {}
        self._own = dict(self.fields)
        self._earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        rows = [row for row in self._earlier.get("parts", ()) if row["status"] == MEASURED]
        self._rows |= {(row["part"], row["shape"], row["backend"]): row for row in rows}
        if rows:
            self.fields |= {name: self._earlier[name] for name in ("environment", "builds")}
            self.fields["command"] = f"{self._earlier['command']}; {fields['command']}"
        self.write()

    def begin(self, environment: dict[str, Any]) -> None:
        """Notes where this is measured; what the file has of another commit or GPU goes."""
        self.environment = environment
        if not environment["gpu"] and not self.fields["smoke"]:
            return  # nothing will be measured: what there is stays
        earlier, self._earlier = self._earlier, {}
        others = {name: earlier.get("environment", {}).get(name) for name in _OF_A_MEASUREMENT}
        if earlier and (
            earlier["smoke"] != self.fields["smoke"]
            or any(environment.get(name) != value for name, value in others.items())
        ):
            for row in earlier["parts"]:
                if self._rows.get(key := (row["part"], row["shape"], row["backend"])) is row:
                    self._rows[key] = row | _NOT_MEASURED
                    self._rows[key].pop("values", None)
            self.fields |= self._own
        self.fields["environment"] = environment
        self.write()

    def content(self) -> dict[str, Any]:
        """All that is known."""
        return self.fields | {"parts": list(self._rows.values())}

    def write(self) -> None:
        """Writes the file beside, then renames it."""
        content = json.dumps(self.content(), indent=2) + "\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_name(self._path.name + ".part")
        beside.write_text(content, encoding="utf-8")
        os.replace(beside, self._path)

    def measured(self, job: Job, part: str, values: dict[str, Any]) -> None:
        """Notes a result."""
        self._rows[_key(job, part)] |= {"status": MEASURED, "reason": "", "values": values}
        self.write()

    def missing(self, job: Job, reason: str, *, part: str | None = None, failed: bool = False) -> None:
        """Notes why a part of a job, or all that is not yet measured of it, has no result."""
        for name in [part] if part else job.parts:
            row = self._rows[_key(job, name)]
            if row["status"] == "not measured":
                row |= {"status": "failed" if failed else "not measured", "reason": reason}
        self.write()


def _key(job: Job, part: str) -> tuple[str, str, str]:
    return part, job.shape, job.backend


def lines_of(command: list[str], limit_s: float) -> Iterator[dict[str, Any]]:
    """Runs a process and yields its results as they come; last, how it ended: {"ended": ""} if well.

    Args:
        command: that prints lines which begin with `MARK`.
        limit_s: after so many seconds it is killed.
    """
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    late, last = threading.Event(), ""

    def end() -> None:
        late.set()
        child.kill()

    timer = threading.Timer(limit_s, end)
    timer.start()
    try:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith(MARK):
                yield json.loads(line[len(MARK) :])
            elif line.strip():
                sys.stderr.write(line)
                last = line.strip()
        status = child.wait()
    finally:
        timer.cancel()
        child.kill()
        child.wait()
    if late.is_set():
        yield {"ended": NO_TIME}
    else:
        yield {"ended": f"the process ended with status {status}: {last[:200]}" if status else ""}
