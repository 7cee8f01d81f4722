# SPDX-License-Identifier: Apache-2.0
"""A profile: the class of machine it is for, and the bounds of the engines built there."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from pixelrefer_ros.errors import ParameterError
from pixelrefer_ros.runtime.manifest import PRECISIONS, Graph, Profile
from pixelrefer_ros.runtime.tensorrt_plans import Gpu

MAX_FILE_BYTES = 64 * 1024

BOUNDED = {
    "vision": {"P": "patch_budget"},
    "objects": {"P": "patch_budget", "K": "objects"},
    "embed": {"L": "context_length", "R": "context_length"},
    "decoder": {"S": "context_length", "C": "context_length"},
    "memory_attention": {"N": "objects"},
    "mask_decoder": {"N": "objects"},
    "memory_encoder": {"N": "objects"},
}
"""Which bound of a profile holds for which symbol of which graph; other symbols keep what the export says."""
USUAL = {"decoder": {"S": 256}}
"""What a symbol usually is, where the export says less: engines are fastest there. S: the length of a prompt
(steps of one position have an optimisation profile of their own)."""
_BOUNDS = ("patch_budget", "objects", "context_length")


@dataclass(frozen=True, slots=True)
class MachineProfile:
    """The bounds of the engines of one class of machine.

    Attributes:
        name: of the profile: the file's name without ``.yaml``.
        gpu_names: patterns (``*`` and ``?``) that the GPU's name may match; case is ignored.
        compute_capabilities: (major, minor) of the GPUs it is for.
        min_memory_gb: of the GPU, decimal; tells machines apart whose GPUs have one name.
        precisions: of the exported folders it takes, the one to be preferred first.
        patch_budget: most patches in one run.
        objects: most objects in one run.
        context_length: most positions of a prompt and its answer.
        workspace_mb: GPU memory that building may use for scratch, in MiB.
    """

    name: str
    gpu_names: tuple[str, ...]
    compute_capabilities: tuple[tuple[int, int], ...]
    min_memory_gb: float
    precisions: tuple[str, ...]
    patch_budget: int
    objects: int
    context_length: int
    workspace_mb: int

    @property
    def content_hash(self) -> str:
        """Hex SHA-256 of what changes an engine: bounds and workspace; not the name, not which machines."""
        bounds = {name: getattr(self, name) for name in (*_BOUNDS, "workspace_mb")}
        return hashlib.sha256(json.dumps(bounds, sort_keys=True).encode()).hexdigest()

    def fits(self, gpu: Gpu) -> bool:
        """Whether it is for this GPU."""
        named = any(fnmatchcase(gpu.name.lower(), pattern.lower()) for pattern in self.gpu_names)
        return (
            named
            and gpu.compute_capability in self.compute_capabilities
            and gpu.memory_gb >= self.min_memory_gb
        )

    def sizes(self, graph: Graph) -> dict[str, Profile]:
        """The sizes of a graph's symbols on this machine: what the export says, cut at this profile's bounds.

        The usual size is at least that of `USUAL`.

        A bound below a symbol's smallest size is not applied: the graph could not run at all.
        """
        bounded, usual = BOUNDED.get(graph.name, {}), USUAL.get(graph.name, {})
        cut = {}
        for symbol, sizes in graph.profiles.items():
            most = min(sizes.max, getattr(self, bounded[symbol])) if symbol in bounded else sizes.max
            most = max(most, sizes.min)
            cut[symbol] = Profile(sizes.min, min(max(sizes.opt, usual.get(symbol, 0)), most), most)
        return cut


def read_profile(path: Path) -> MachineProfile:
    """Reads a profile from a YAML file; the file's name is the profile's.

    Raises:
        ParameterError: the file cannot be read, or a field is missing, unknown or wrong; the message names
            file, field and value.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ParameterError(
                f"{path} has {path.stat().st_size} bytes; a profile has at most {MAX_FILE_BYTES}"
            )
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise ParameterError(f"profile {path} cannot be read: {problem}") from error
    if not isinstance(content, dict):
        raise ParameterError(
            f"profile {path} holds {content!r:.80}; it must be a mapping of {', '.join(_FIELDS)}"
        )
    for name in _FIELDS:
        if name not in content:
            raise ParameterError(f"profile {path}: {name} is missing")
    values = {}
    for name, value in content.items():
        if name not in _FIELDS:
            raise ParameterError(f"profile {path}: {name!r:.80} is no field; there are: {', '.join(_FIELDS)}")
        check, wanted = _FIELDS[name]
        values[name] = check(value)
        if values[name] is None:
            raise ParameterError(f"profile {path}: {name} is {value!r:.80}; give {wanted}")
    return MachineProfile(name=path.stem, **values)


def _whole(least: int, most: int) -> tuple[Callable[[Any], Any], str]:
    def check(value: Any) -> int | None:
        return value if type(value) is int and least <= value <= most else None

    return check, f"a whole number from {least} to {most}"


def _texts(value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text for text in value):
        return None
    return tuple(value)


def _capabilities(value: Any) -> tuple[tuple[int, int], ...] | None:
    found = [re.fullmatch(r"(\d{1,2})\.(\d)", text) for text in _texts(value) or ()]
    return tuple((int(match[1]), int(match[2])) for match in found if match) if found and all(found) else None


def _precisions(value: Any) -> tuple[str, ...] | None:
    texts = _texts(value)
    known = texts is not None and set(texts) <= set(PRECISIONS) and len(set(texts)) == len(texts)
    return texts if known else None


def _memory(value: Any) -> float | None:
    good = type(value) in (int, float) and math.isfinite(value) and 0 <= value <= 10_000
    return float(value) if good else None


_FIELDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "gpu_names": (_texts, 'a list of patterns, like ["*H200*"]'),
    "compute_capabilities": (_capabilities, 'a list of texts, like ["8.7"]'),
    "min_memory_gb": (_memory, "a number from 0 to 10000"),
    "precisions": (_precisions, f"a list of different ones of {', '.join(PRECISIONS)}"),
    "patch_budget": _whole(1024, 65_536),  # the whole frame (576) and a crop's surroundings fit
    "objects": _whole(1, 256),
    "context_length": _whole(64, 131_072),
    "workspace_mb": _whole(16, 262_144),
}
