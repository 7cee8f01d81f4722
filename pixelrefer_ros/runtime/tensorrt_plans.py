# SPDX-License-Identifier: Apache-2.0
"""Engine files: which plan was built for what. A plan is code, so it is trusted by its hash alone.

A graph NAME has a record ``NAME.engine.json`` beside its plan ``NAME.<digits of the plan's hash>.plan``.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import ModuleType

from pixelrefer_ros.errors import BackendError
from pixelrefer_ros.runtime.manifest import Graph, Profile
from pixelrefer_ros.runtime.whole_files import write_whole

ENGINES = "engines"
"""The folder of the engines, in the exported folder."""

DTYPE_NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""TensorRT's names of element types to those of a manifest."""

FORMAT = 2
BUILDER = 3
"""To be raised when ``engines/`` makes another engine of the same graph: those of before are built again."""
_PLAN = re.compile(r"[A-Za-z0-9_][\w.-]*\.plan")


@dataclass(frozen=True, slots=True)
class Gpu:
    """The GPU of a machine.

    Attributes:
        name: as CUDA says it.
        compute_capability: (major, minor).
        memory_gb: decimal; no part of a key.
        index: as torch counts GPUs; None: whichever is current. No part of a key.
    """

    name: str
    compute_capability: tuple[int, int]
    memory_gb: float = 0.0
    index: int | None = None

    def __str__(self) -> str:
        """For people."""
        major, minor = self.compute_capability
        return f"{self.name}, compute capability {major}.{minor}, {self.memory_gb:.0f} GB"


def library(trt: ModuleType) -> str:
    """The library and its version, for keys and messages, like "tensorrt 10.15.1.29"."""
    return f"{trt.__name__} {trt.__version__}"


@dataclass(frozen=True, slots=True)
class EngineKey:
    """All that an engine depends on: another value of any of them, and it must be built again.

    Attributes:
        graph: hex SHA-256 over the hashes of the graph and its files of weights.
        sizes: those that the export allows each symbol, like "C 1..1024..4096, S 1..1..4096".
        in_place: hex SHA-256 over the pairs of inputs and outputs that share one memory.
        builder: `BUILDER`.
        tensorrt: the library and its version.
        gpu: its name.
        compute_capability: "major.minor".
        profile: name and first digits of the content hash.
        precision: of the exported folder.
    """

    graph: str
    sizes: str
    in_place: str
    builder: str
    tensorrt: str
    gpu: str
    compute_capability: str
    profile: str
    precision: str

    def changes(self, now: EngineKey) -> list[str]:
        """What is different now, a phrase each; empty if nothing is."""
        before, after = asdict(self), asdict(now)
        return [
            f"{name.replace('_', ' ')} was {_short(before[name])} and is {_short(after[name])}"
            for name in before
            if before[name] != after[name]
        ]


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """What was built.

    Attributes:
        key: what for.
        file: the plan, in the record's folder.
        sha256: hex, of the plan's bytes.
        profiles: the sizes that the symbols of the graph's inputs may take in this engine.
    """

    key: EngineKey
    file: str
    sha256: str
    profiles: Mapping[str, Profile]


def engine_key(graph: Graph, *, precision: str, tensorrt: str, gpu: Gpu, profile: str) -> EngineKey:
    """The key of a graph's engine; see `EngineKey`."""
    sizes = sorted(graph.profiles.items())
    return EngineKey(
        graph=_hash(graph.sha256, *(data.sha256 for data in graph.data)),
        sizes=", ".join(f"{symbol} {of.min}..{of.opt}..{of.max}" for symbol, of in sizes),
        in_place=_hash(*(f"{name} {output}" for name, output in sorted(graph.in_place))),
        builder=str(BUILDER),
        tensorrt=tensorrt,
        gpu=gpu.name,
        compute_capability="{}.{}".format(*gpu.compute_capability),
        profile=profile,
        precision=precision,
    )


def record_path(engines: Path, graph: str) -> Path:
    """Where a graph's record lies."""
    return engines / f"{graph}.engine.json"


def read_record(engines: Path, graph: str) -> EngineRecord | None:
    """A graph's record; None if there is none.

    Raises:
        BackendError: the file cannot be read as a record.
    """
    path = record_path(engines, graph)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r:.40}, and this version reads {FORMAT}")
        key = EngineKey(**{field.name: _text(content["key"], field.name) for field in fields(EngineKey)})
        profiles = {
            str(symbol): Profile(*(int(sizes[bound]) for bound in ("min", "opt", "max")))
            for symbol, sizes in content["profiles"].items()
        }
        file = _text(content, "file")
        if not _PLAN.fullmatch(file):  # a name from a file must not lead out of the folder
            raise ValueError(f"file is {file!r:.80}")
        return EngineRecord(key, file, _text(content, "sha256"), profiles)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BackendError(
            f"{path} is no engine record ({type(error).__name__}: {error}): build the engines again"
        ) from error


def write_record(engines: Path, graph: str, record: EngineRecord) -> None:
    """Writes a graph's record whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    content = {"format": FORMAT, **asdict(record)}
    write_whole(record_path(engines, graph), (json.dumps(content, indent=1) + "\n").encode())


def read_plan(engines: Path, record: EngineRecord) -> memoryview:
    """The bytes of a plan, after their hash was found to be the record's.

    They are the file itself, mapped: where a GPU has the machine's memory, a copy of gigabytes would be
    missing on it. What was hashed is what is read later, too: a plan is never written to once it has its
    name, only replaced or removed (`write_whole`), and the mapping keeps the file that it was made of.
    (Whoever writes into the file itself could as well write a record for it.)

    Raises:
        BackendError: the file is missing, or holds other bytes.
    """
    path = engines / record.file
    try:
        with path.open("rb") as file:
            # What is empty cannot be mapped.
            empty = os.fstat(file.fileno()).st_size == 0
            plan = memoryview(b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise BackendError(f"{path} cannot be read ({error}): build the engines again") from error
    found = hashlib.sha256(plan).hexdigest()
    if found != record.sha256:
        raise BackendError(
            f"{path} ({plan.nbytes} bytes, sha256 {found[:12]}...) is not the plan that was built "
            f"({record.sha256[:12]}...) and is not loaded: build the engines again"
        )
    return plan


def _hash(*lines: str) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _text(content: Mapping[str, object], name: str) -> str:
    value = content[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r:.80}")
    return value


def _short(value: str) -> str:
    return f"{value[:12]}..." if re.fullmatch(r"[0-9a-f]{64}", value) else repr(value)
