# SPDX-License-Identifier: Apache-2.0
"""One torch module to one ``.onnx`` file and its record in the manifest."""

from __future__ import annotations

import inspect
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from pixelrefer_ros.export.operators import translations
from torch import nn

from pixelrefer_ros.errors import PixelReferError
from pixelrefer_ros.runtime import DataFile, Graph, Profile, TensorSpec, file_hash
from pixelrefer_ros.runtime.manifest import MANIFEST

LARGEST_FILE = 1 << 30
"""Weights beyond this many bytes lie in a file of their own: protobuf cannot hold 2 GB."""


@dataclass(frozen=True)
class GraphPlan:
    """What to export.

    Attributes:
        name: of the graph.
        module: its ``forward`` takes the inputs in order and returns a tensor or a tuple of tensors.
        inputs: example tensors by name; sizes that change must not be 1, and differ from each other.
        shapes: of each input, a symbol for every size that changes: {"patches": {0: "P"}}.
        outputs: their names.
        profiles: the sizes each symbol may take.
        in_place: (input, output) pairs of one memory.
        rewrite: what to do to the graph before it is saved (quantisation); what it returns is not looked at.
        on_host: see `pixelrefer_ros.runtime.Graph`; its table lies in a file of its own, however small.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, torch.Tensor]
    shapes: Mapping[str, Mapping[int, str]]
    outputs: Sequence[str]
    profiles: Mapping[str, Profile]
    in_place: Sequence[tuple[str, str]] = ()
    rewrite: Callable[[onnx_ir.Model], object] | None = field(default=None)
    on_host: bool = False


def open_folder(out: Path) -> None:
    """Makes the folder of an export, without the manifest of an earlier one.

    A folder that is half written must not look whole.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)


@torch.no_grad()
def export_graph(plan: GraphPlan, folder: Path, *, opset: int) -> Graph:
    """Exports one module: ``torch.export`` first, then ONNX, then the files.

    Args:
        plan: what.
        folder: where the files go.
        opset: of ONNX.

    Returns:
        The record for the manifest.

    Raises:
        PixelReferError: the graph that came out is not the one planned.
    """
    dims = {
        symbol: torch.export.Dim(symbol, min=profile.min, max=profile.max)
        for symbol, profile in plan.profiles.items()
        if profile.max > profile.min
    }
    dynamic: list[Any] = [
        {axis: dims[symbol] for axis, symbol in plan.shapes.get(name, {}).items() if symbol in dims}
        for name in plan.inputs
    ]
    kinds = [parameter.kind for parameter in inspect.signature(plan.module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:  # torch wants the shapes of *caches as one tuple
        named = kinds.index(inspect.Parameter.VAR_POSITIONAL)
        dynamic = [*dynamic[:named], tuple(dynamic[named:])]
    with _quiet():
        # Not strict, which older torch is by itself: that would read the bytecode of transformers' modules
        # where running them traces all there is.
        program = torch.export.export(
            plan.module.eval(), tuple(plan.inputs.values()), dynamic_shapes=tuple(dynamic), strict=False
        )
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=list(plan.inputs),
            output_names=list(plan.outputs),
            custom_translation_table=translations(opset),
            verbose=False,
        )
    assert exported is not None  # noqa: S101 (dynamo=True always returns a program)
    model = exported.model
    if plan.rewrite is not None:
        plan.rewrite(model)
    _name_sizes(model, plan)
    _forget_origin(model)
    file = f"{plan.name}.onnx"
    data = _save(model, folder, file, table=plan.on_host)
    return Graph(
        name=plan.name,
        file=file,
        sha256=file_hash(folder / file),
        data=data,
        inputs=tuple(_spec(value) for value in model.graph.inputs),
        outputs=tuple(_spec(value) for value in model.graph.outputs),
        in_place=tuple(plan.in_place),
        profiles=dict(plan.profiles),
        on_host=plan.on_host,
    )


def _name_sizes(model: onnx_ir.Model, plan: GraphPlan) -> None:
    """Checks the names, and gives sizes the planned symbols in place of torch's own."""
    found = [value.name for value in model.graph.inputs], [value.name for value in model.graph.outputs]
    if found != (list(plan.inputs), list(plan.outputs)):
        raise PixelReferError(
            f"graph {plan.name}: torch exported inputs {found[0]} and outputs {found[1]}; expected "
            f"{list(plan.inputs)} and {list(plan.outputs)}: an input is unused, or torch is too new"
        )
    symbols: dict[str, str] = {}
    for value in model.graph.inputs:
        assert value.shape is not None and value.name is not None  # noqa: S101 (inputs have shapes)
        planned = plan.shapes.get(value.name, {})
        for axis, size in enumerate(value.shape):
            if not isinstance(size, int):
                symbols[str(size)] = planned[axis]
    spelled = re.compile("|".join(rf"\b{re.escape(symbol)}\b" for symbol in symbols) or r"(?!)")

    def named(size: int | onnx_ir.SymbolicDim) -> int | str | None:
        if isinstance(size, int):
            return size
        # What torch does not know stays without a name: ONNX Runtime takes sizes of one name for equal ones.
        return None if size.value is None else spelled.sub(lambda match: symbols[match[0]], size.value)

    computed = [value for node in model.graph for value in node.outputs]
    for value in (*model.graph.inputs, *model.graph.outputs, *computed):
        if value.shape is not None:
            value.shape = onnx_ir.Shape(named(size) for size in value.shape)
    for value in model.graph.outputs:
        for size in value.shape or ():
            if not isinstance(size, int) and size.value not in plan.profiles:
                raise PixelReferError(
                    f"graph {plan.name}: output {value.name} has shape {value.shape}; each size must be a "
                    f"number or one of the inputs' ({', '.join(plan.profiles)}), which the runtime knows"
                )


def _forget_origin(model: onnx_ir.Model) -> None:
    """Removes torch's notes on where each node comes from: they name the files of this machine."""
    values = [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]
    for node in model.graph:
        values += node.outputs
        node.doc_string = None
        node.metadata_props.clear()
    for value in values:
        value.metadata_props.clear()
        value.doc_string = None
    model.graph.metadata_props.clear()
    model.graph.doc_string = model.doc_string = None
    model.metadata_props.clear()


def _spec(value: onnx_ir.Value) -> TensorSpec:
    assert value.name is not None and value.dtype is not None and value.shape is not None  # noqa: S101
    names = {
        onnx_ir.DataType.FLOAT: "float32",
        onnx_ir.DataType.FLOAT16: "float16",
        onnx_ir.DataType.BFLOAT16: "bfloat16",
        onnx_ir.DataType.INT64: "int64",
        onnx_ir.DataType.INT32: "int32",
        onnx_ir.DataType.UINT8: "uint8",
        onnx_ir.DataType.BOOL: "bool",
    }
    shape = tuple(size if isinstance(size, int) else str(size) for size in value.shape)
    return TensorSpec(value.name, names[value.dtype], shape)


def _save(model: onnx_ir.Model, folder: Path, file: str, *, table: bool) -> tuple[DataFile, ...]:
    """Writes the graph; of a `table` (`Graph.on_host`) the largest weights have a file of their own."""
    values = [value.const_value for value in model.graph.initializers.values()]
    sizes = [value.nbytes for value in values if value is not None]
    data_file = f"{file}.data"
    for name in (file, data_file):  # of an earlier export
        (folder / name).unlink(missing_ok=True)
    if table:
        onnx_ir.save(model, folder / file, external_data=data_file, size_threshold_bytes=max(sizes) - 1)
    elif sum(sizes) > LARGEST_FILE:
        onnx_ir.save(model, folder / file, external_data=data_file)
    else:
        onnx_ir.save(model, folder / file)
        return ()
    return (DataFile(data_file, file_hash(folder / data_file)),)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes, which speak of torch's internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
