# SPDX-License-Identifier: Apache-2.0
"""Matrix products of integers, on a CPU faster than of float32; ONNX Runtime makes one operator of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir
from numpy.typing import NDArray
from pixelrefer_ros.export.quantise import SMALLEST_SCALE, initializer

LARGEST = 64
"""Of a weight's integers. CPUs without VNNI add two products in 16 bits, which hold 2 x 64 x 255."""


def multiply_integers(model: onnx_ir.Model) -> int:
    """Replaces products with constant matrices by products of integers; in place.

    Symmetric weights with one scale for each column; what they are multiplied with is rounded when the graph
    runs, to 255 steps between its own least and largest number.

    Args:
        model: a graph in float32.

    Returns:
        How many products were replaced.
    """
    graph = model.graph
    rounded: dict[str, tuple[onnx_ir.Value, ...]] = {}
    products = [node for node in graph if _weight(node) is not None]
    constants: dict[str, tuple[onnx_ir.Value, ...]] = {}
    for node in products:
        left, kernel = node.inputs
        assert left is not None and kernel is not None  # noqa: S101 (a MatMul has two inputs)
        weight, matrix, name = _weight(node), str(kernel.name), str(left.name)
        if weight is not None and matrix not in constants:
            constants[matrix] = _constants(graph, matrix, weight)
        if name not in rounded:  # query, key and value share theirs
            rounding = onnx_ir.node("DynamicQuantizeLinear", [left], num_outputs=3)
            for value, part in zip(rounding.outputs, ("integers", "scale", "zero"), strict=True):
                value.name = f"{name}_{part}"
            graph.insert_before(node, rounding)
            rounded[name] = tuple(rounding.outputs)
        _replace(graph, node, rounded[name], constants[matrix])
    for name in constants:
        if not graph.initializers[name].uses():
            del graph.initializers[name]
    return len(products)


def _weight(node: onnx_ir.Node) -> NDArray[Any] | None:
    """The constant matrix (in, out) that a node multiplies with, if it does."""
    kernel = node.inputs[1] if node.op_type == "MatMul" else None
    if kernel is None or kernel.name is None or kernel.const_value is None:
        return None
    weight = kernel.const_value.numpy()
    return weight if weight.ndim == 2 else None


def _constants(graph: onnx_ir.Graph, name: str, weight: NDArray[Any]) -> tuple[onnx_ir.Value, ...]:
    """Integers (in, out) int8 and scales (out,) float32."""
    scales = np.maximum(np.abs(weight).max(axis=0) / LARGEST, SMALLEST_SCALE).astype(np.float32)
    integers = np.clip(np.rint(weight / scales), -LARGEST, LARGEST).astype(np.int8)
    return (
        initializer(graph, f"{name}_quantised", integers),
        initializer(graph, f"{name}_scale", scales),
    )


def _replace(
    graph: onnx_ir.Graph,
    node: onnx_ir.Node,
    rounded: tuple[onnx_ir.Value, ...],
    constants: tuple[onnx_ir.Value, ...],
) -> None:
    """(x - zero) W in integers, times both scales, in place of `node`."""
    (values, scale, zero), (integers, scales) = rounded, constants
    product = onnx_ir.node("MatMulInteger", [values, integers, zero])
    number = onnx_ir.node("Cast", [product.outputs[0]], {"to": onnx_ir.DataType.FLOAT.value})
    both = onnx_ir.node("Mul", [scale, scales])
    result = onnx_ir.node("Mul", [number.outputs[0], both.outputs[0]])
    old, new = node.outputs[0], result.outputs[0]
    for value, part in ((product, "integers"), (number, "unscaled"), (both, "scale")):
        value.outputs[0].name = f"{old.name}_{part}"
    new.name, new.shape, new.type = old.name, old.shape, old.type
    old.name = f"{old.name}_replaced"
    graph.insert_before(node, [product, number, both, result])
    onnx_ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
