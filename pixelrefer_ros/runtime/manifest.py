# SPDX-License-Identifier: Apache-2.0
"""``manifest.json``: what lies in an exported folder, written by export and read by engines and runtime."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pixelrefer_ros.errors import CheckpointError
from pixelrefer_ros.runtime.json_fields import EXPORT_AGAIN, JsonFields
from pixelrefer_ros.runtime.whole_files import write_whole

MANIFEST = "manifest.json"
FORMAT = 1
KINDS = ("pixelrefer-lite", "sam2")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4")
OPSETS = (20, 24)
DTYPES = ("float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool")
"""Element types of inputs and outputs, named as torch names them."""

_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a graph.

    Attributes:
        name: its name in the graph.
        dtype: one of `DTYPES`.
        shape: a size, or the name of a size that changes from run to run (a symbol).
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of weights beside a graph.

    Attributes:
        file: its name in the folder.
        sha256: hex, of its bytes.
    """

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Profile:
    """The sizes a symbol may take; engines are built for them.

    Attributes:
        min: the smallest.
        opt: the one to be fastest at.
        max: the largest.
    """

    min: int
    opt: int
    max: int


@dataclass(frozen=True, slots=True)
class Graph:
    """One exported network.

    Attributes:
        name: its key in the manifest.
        file: the ``.onnx`` file in the folder.
        sha256: hex, of the ``.onnx`` file.
        data: files of weights that the graph refers to.
        inputs: in the order of the graph.
        outputs: in the order of the graph.
        in_place: (input, output) pairs that share one memory: the run updates the input.
        profiles: the sizes of each symbol of the inputs.
        on_host: it only looks rows up in one table, which is all that its one file of weights holds: the host
            can do that, and no engine is built of it.
    """

    name: str
    file: str
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    data: tuple[DataFile, ...] = ()
    in_place: tuple[tuple[str, str], ...] = ()
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    on_host: bool = False

    def input(self, name: str) -> TensorSpec:
        """The input of that name; KeyError if there is none."""
        return {spec.name: spec for spec in self.inputs}[name]

    def output(self, name: str) -> TensorSpec:
        """The output of that name; KeyError if there is none."""
        return {spec.name: spec for spec in self.outputs}[name]


@dataclass(frozen=True, slots=True)
class Manifest:
    """An exported folder.

    Attributes:
        kind: one of `KINDS`.
        name: of the model.
        source: "name" and "content_hash" of the checkpoint it was exported from.
        precision: one of `PRECISIONS`.
        opset: the version of ONNX operators, one of `OPSETS`.
        versions: of what exported it: torch, transformers, onnx, onnxscript, pixelrefer_ros.
        settings: what the runtime needs to know of the model; JSON values.
        graphs: by name.
    """

    kind: str
    name: str
    source: Mapping[str, str]
    precision: str
    opset: int
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    graphs: Mapping[str, Graph]

    def graph(self, name: str, folder: Path) -> Graph:
        """The graph of that name; `folder` is named in the error.

        Raises:
            CheckpointError: the manifest has no such graph.
        """
        if name not in self.graphs:
            raise CheckpointError(
                f"{folder / MANIFEST}: graphs has no {name!r} (it has {', '.join(sorted(self.graphs))}): "
                + EXPORT_AGAIN
            )
        return self.graphs[name]

    def compiled(self) -> list[Graph]:
        """The graphs that TensorRT has engines of: all but those left to the host."""
        return [graph for graph in self.graphs.values() if not graph.on_host]


def is_exported(folder: Path) -> bool:
    """Whether a folder is an exported one."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks ``manifest.json``; the files it names are checked by `verify_graph`, when needed.

    Raises:
        CheckpointError: the file is missing or no JSON, has another format, or a field is missing or wrong;
            the message names file, field and remedy.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: {folder} is no exported folder; {EXPORT_AGAIN}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}): {EXPORT_AGAIN}") from error
    fields = JsonFields(path, "", content)
    if fields.get("format", int) != FORMAT:
        raise CheckpointError(
            f"{path}: format is {content['format']}, and this version reads {FORMAT}: {EXPORT_AGAIN}"
        )
    graphs = fields.mapping("graphs")
    return Manifest(
        kind=fields.choice("kind", KINDS),
        name=fields.get("name", str),
        source=fields.texts("source"),
        precision=fields.choice("precision", PRECISIONS),
        opset=fields.choice("opset", OPSETS),
        versions=fields.texts("versions"),
        settings=dict(fields.get("settings", dict)),
        graphs={name: _graph(name, graphs.mapping(name)) for name in graphs.file_names()},
    )


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Writes ``manifest.json`` whole or not at all; returns its path.

    Raises:
        OSError: it cannot be written.
    """
    graphs = {}
    for name, graph in manifest.graphs.items():
        graphs[name] = asdict(graph)
        del graphs[name]["name"]
    content = {"format": FORMAT, **asdict(manifest), "graphs": graphs}
    path = folder / MANIFEST
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())
    return path


def file_hash(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def verify_graph(folder: Path, graph: Graph) -> None:
    """Compares a graph's files with their hashes.

    Raises:
        CheckpointError: a file is missing or is another than the manifest says.
    """
    for name, expected in ((graph.file, graph.sha256), *((data.file, data.sha256) for data in graph.data)):
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing, but {MANIFEST} names it: {EXPORT_AGAIN}")
        found = file_hash(path)
        if found != expected:
            raise CheckpointError(
                f"{path} has sha256 {found[:12]}..., and {MANIFEST} says {expected[:12]}...: the file was "
                f"changed or not copied whole; copy the folder again, or {EXPORT_AGAIN}"
            )


def _graph(name: str, fields: JsonFields) -> Graph:
    inputs, outputs = _tensors(fields, "inputs"), _tensors(fields, "outputs")
    pairs = []
    for pair in fields.get("in_place", list, []):
        known = isinstance(pair, list) and len(pair) == 2
        if not (known and _named(inputs, pair[0]) and _named(outputs, pair[1])):
            raise fields.wrong("in_place", f"{pair!r}; each must be [an input's name, an output's name]")
        pairs.append((pair[0], pair[1]))
    data = [JsonFields(fields.path, fields.name("data"), value) for value in fields.get("data", list, [])]
    on_host = fields.get("on_host", bool, False)
    if on_host and len(data) != 1:
        raise fields.wrong("data", f"{len(data)} files; a graph that is left to the host (on_host) has one")
    return Graph(
        name=name,
        file=fields.file("file"),
        sha256=fields.get("sha256", str),
        inputs=inputs,
        outputs=outputs,
        data=tuple(DataFile(one.file("file"), one.get("sha256", str)) for one in data),
        in_place=tuple(pairs),
        profiles=_profiles(fields),
        on_host=on_host,
    )


def _named(tensors: Sequence[TensorSpec], name: object) -> bool:
    return any(tensor.name == name for tensor in tensors)


def _tensors(fields: JsonFields, name: str) -> tuple[TensorSpec, ...]:
    tensors = []
    for value in fields.get(name, list):
        of_tensor = JsonFields(fields.path, fields.name(name), value)
        shape = of_tensor.get("shape", list)
        if not all(type(size) in (int, str) and size != "" for size in shape):
            raise of_tensor.wrong("shape", f"{shape!r}; each must be a size or a symbol's name")
        tensors.append(
            TensorSpec(of_tensor.get("name", str), of_tensor.choice("dtype", DTYPES), tuple(shape))
        )
    return tuple(tensors)


def _profiles(fields: JsonFields) -> dict[str, Profile]:
    profiles = {}
    all_profiles = fields.mapping("profiles") if "profiles" in fields.content else None
    for symbol in all_profiles.content if all_profiles else ():
        assert all_profiles is not None  # noqa: S101 (for the type checker)
        sizes = all_profiles.mapping(symbol)
        profile = Profile(*(sizes.get(bound, int) for bound in ("min", "opt", "max")))
        if not 0 <= profile.min <= profile.opt <= profile.max:
            raise all_profiles.wrong(symbol, f"{profile}; it must be 0 <= min <= opt <= max")
        profiles[symbol] = profile
    return profiles
