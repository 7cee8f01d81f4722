# SPDX-License-Identifier: Apache-2.0
"""ONNX to a TensorRT network: read whole, with nothing dropped."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
from pixelrefer_ros.engines.attention import split_single_heads

from pixelrefer_ros.errors import BackendError
from pixelrefer_ros.runtime.manifest import Graph, TensorSpec
from pixelrefer_ros.runtime.tensorrt_messages import heard, logger_of, shown
from pixelrefer_ros.runtime.tensorrt_plans import DTYPE_NAMES, library

ATTENTION = "ATTENTION_OUTPUT"
"""The type of the layer that an attention ends in."""


@dataclass(frozen=True, slots=True)
class Network:
    """A graph as TensorRT read it.

    Attributes:
        trt: the module it was read with.
        builder: that made it.
        definition: TensorRT's network.
        layers: how many layers of each type there are.
        said: warnings that were allowed.
    """

    trt: ModuleType
    builder: Any
    definition: Any
    layers: Counter[str]
    said: tuple[str, ...]

    def take_attention_apart(self) -> None:
        """Lets TensorRT build attention from several kernels where it has no fused one."""
        for index in range(self.definition.num_layers):
            layer = self.definition.get_layer(index)
            if layer.type.name == ATTENTION:
                layer.__class__ = self.trt.IAttentionOutputLayer  # Python's bindings know only "a layer"
                layer.attention.decomposable = True


def read_network(
    trt: ModuleType,
    folder: Path,
    graph: Graph,
    *,
    fixed: Mapping[str, int],
    allow_warnings: bool = False,
) -> Network:
    """Reads a graph of an exported folder; files of weights are found beside it.

    Args:
        trt: the module ``tensorrt`` or ``tensorrt_rtx``.
        folder: the exported one.
        graph: of its manifest.
        fixed: sizes for symbols that must not change in the engine.
        allow_warnings: warnings of the parser do not stop it; an unused input always does.

    Raises:
        BackendError: TensorRT has no builder, cannot read it, warns of it, drops an input, or finds other
            inputs or outputs than the manifest's.
    """
    path = folder / graph.file
    builder = _builder(trt)
    definition = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(definition, logger_of(trt))
    content = _prepared(path, fixed)
    with heard(trt) as messages:  # of the graph: what is said elsewhere does not change what it computes
        read = parser.parse(content, str(path))  # the path: to find files of weights
    errors = [_error(parser.get_error(index)) for index in range(parser.num_errors)]
    if not read or errors:
        raise BackendError(f"{path}: TensorRT cannot read it: {_joined(errors or messages.errors)}")
    refused = messages.unused_inputs if allow_warnings else messages.warnings
    if refused:
        raise BackendError(
            f"{path}: TensorRT read it with warnings, and what it computes may differ: {_joined(refused)}"
        )
    _compare(path, graph.inputs, [definition.get_input(index) for index in range(definition.num_inputs)])
    _compare(path, graph.outputs, [definition.get_output(index) for index in range(definition.num_outputs)])
    layers = Counter(definition.get_layer(index).type.name for index in range(definition.num_layers))
    return Network(trt, builder, definition, layers, tuple(messages.warnings))


def _builder(trt: ModuleType) -> Any:
    with heard(trt, logging.ERROR) as messages:
        try:
            builder = trt.Builder(logger_of(trt))
        except (TypeError, RuntimeError) as error:  # how its Python bindings tell that there is none
            said = _joined([*messages.errors, str(error)])
            raise BackendError(f"{library(trt)} has no builder on this machine: {said}") from error
    return builder


def _strongly_typed(trt: ModuleType) -> int:
    # TensorRT 11 knows no other networks: the flag does nothing there, and may be gone one day.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _prepared(path: Path, fixed: Mapping[str, int]) -> bytes:
    model = onnx.load(path, load_external_data=False)
    if not split_single_heads(model) and not fixed:
        return path.read_bytes()
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in fixed:
                size.dim_value = fixed[size.dim_param]
    content: bytes = model.SerializeToString()
    return content


def _compare(path: Path, specs: tuple[TensorSpec, ...], tensors: list[Any]) -> None:
    found = {tensor.name: (DTYPE_NAMES.get(tensor.dtype.name), tuple(tensor.shape)) for tensor in tensors}
    if found.keys() != {spec.name for spec in specs}:
        raise BackendError(
            f"{path}: TensorRT finds {', '.join(sorted(found))}, and the manifest names "
            f"{', '.join(sorted(spec.name for spec in specs))}: export the model again"
        )
    for spec in specs:
        dtype, shape = found[spec.name]
        # A size that changes is -1; an output's may be unknown until the inputs' are known.
        same = len(shape) == len(spec.shape) and all(
            size in (expected, -1) or isinstance(expected, str)
            for size, expected in zip(shape, spec.shape, strict=True)
        )
        if dtype != spec.dtype or not same:
            raise BackendError(
                f"{path}: TensorRT finds {spec.name} as {dtype} of shape {list(shape)}, and the manifest "
                f"says {spec.dtype} of shape {list(spec.shape)}: export the model again"
            )


def _error(error: Any) -> str:
    return f"{error.desc()} (node {error.node_name()!r}, operator {error.node_operator()})"


def _joined(messages: Sequence[str]) -> str:
    return "; ".join(shown(messages))
