# SPDX-License-Identifier: Apache-2.0
"""One interface to a network, whatever runs it: named tensors in, named tensors out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch

from pixelrefer_ros.runtime.manifest import Graph


class Session(Protocol):
    """One graph, open: compiled, or a network of torch that is described as one.

    Tensors are carriers of memory on the session's device. Where the graph has `Graph.in_place` pairs, the
    tensor fed to the input is updated, and the output returned is that same tensor. A session runs one
    call at a time.
    """

    graph: Graph

    def run(self, feeds: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Runs the graph.

        Args:
            feeds: every input by its name, contiguous, of the dtype and shape that the graph says.

        Returns:
            Every output by its name. Outputs are the caller's: later runs do not write to them (save for
            in-place ones).

        Raises:
            ValueError: an input is missing, unknown, or of another dtype or shape; see `check_feeds`.
            BackendError: the backend fails.
        """
        ...

    def close(self) -> None:
        """Frees what the session holds; further runs are errors. Closing twice is none."""
        ...


class Backend(Protocol):
    """What opens graphs: ONNX Runtime, TensorRT.

    Attributes:
        name: as a user gives it.
        host_tables: what `Graph.on_host` marks is left to the host: it would take memory of a GPU.
    """

    name: str
    host_tables: bool

    def open(self, folder: Path, graph: Graph) -> Session:
        """Opens a graph of an exported folder.

        Raises:
            CheckpointError: its files are missing or are not those of the manifest.
            BackendError: the backend cannot run it.
        """
        ...


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a name in `pixelrefer_ros.runtime.manifest.DTYPES`."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)  # noqa: S101 (names come from a checked manifest)
    return dtype


def check_feeds(graph: Graph, feeds: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Compares feeds with a graph's inputs.

    Returns:
        The size of every symbol of the inputs.

    Raises:
        ValueError: an input is missing or unknown, has another dtype or shape, is not contiguous, or a symbol
            has two sizes or one outside its profile. (A mistake of the caller, not of the user.)
    """
    names = {spec.name for spec in graph.inputs}
    if names != feeds.keys():
        missing, unknown = sorted(names - feeds.keys()), sorted(feeds.keys() - names)
        raise ValueError(f"graph {graph.name}: inputs missing: {missing}; unknown: {unknown}")
    sizes: dict[str, int] = {}
    for spec in graph.inputs:
        tensor = feeds[spec.name]
        if tensor.dtype != torch_dtype(spec.dtype) or tensor.dim() != len(spec.shape):
            raise ValueError(
                f"{_found(graph, spec.name, tensor)}; it must be {spec.dtype} of shape {list(spec.shape)}"
            )
        if not tensor.is_contiguous():
            raise ValueError(f"{_found(graph, spec.name, tensor)}, and not contiguous")
        for size, expected in zip(tensor.shape, spec.shape, strict=True):
            if isinstance(expected, str):
                expected = sizes.setdefault(expected, size)
            if size != expected:
                found = _found(graph, spec.name, tensor)
                raise ValueError(f"{found}; it must be of shape {list(spec.shape)} with {sizes}")
    for symbol, size in sizes.items():
        profile = graph.profiles.get(symbol)
        if profile is not None and not profile.min <= size <= profile.max:
            raise ValueError(
                f"graph {graph.name}: {symbol} is {size}; it must be from {profile.min} to {profile.max}"
            )
    return sizes


def _found(graph: Graph, name: str, tensor: torch.Tensor) -> str:
    return f"graph {graph.name}: {name} is {tensor.dtype} of shape {list(tensor.shape)}"
