# SPDX-License-Identifier: Apache-2.0
"""Weights as small integers: ``DequantizeLinear`` before matrix products, which both runtimes know."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir
from numpy.typing import NDArray

QUANTISED = {"int8": 8, "int4": 4}
"""Precisions with quantised weights, and their bits."""
BLOCK = 32
"""Weights of one column that share a scale."""


def quantise_weights(model: onnx_ir.Model, *, bits: int) -> None:
    """Replaces the weights of matrix products by integers with scales; in place.

    Symmetric: a weight is integer x scale, one scale for `BLOCK` consecutive weights of a column. Products
    whose inner size is no multiple of the block stay as they are.

    Args:
        model: the graph; its initializers are replaced.
        bits: 8 or 4.
    """
    graph = model.graph
    done: dict[str, onnx_ir.Value] = {}
    for node in list(graph):
        kernel = node.inputs[1] if node.op_type == "MatMul" else None
        if kernel is None or kernel.name is None or kernel.const_value is None:
            continue
        if kernel.name not in done:
            weight = kernel.const_value.numpy()
            if weight.ndim != 2 or weight.shape[0] % BLOCK:
                continue
            done[kernel.name] = _dequantised(graph, node, kernel, weight, bits)
        node.replace_input_with(1, done[kernel.name])
    for name in done:
        if not graph.initializers[name].uses():
            del graph.initializers[name]


def _dequantised(
    graph: onnx_ir.Graph, node: onnx_ir.Node, kernel: onnx_ir.Value, weight: NDArray[np.generic], bits: int
) -> onnx_ir.Value:
    """A ``DequantizeLinear`` node before `node`; returns its output."""
    integers, scales = quantise(weight.astype(np.float32), bits)
    kind = onnx_ir.DataType.INT4 if bits == 4 else onnx_ir.DataType.INT8
    name = str(kernel.name)
    quantised = onnx_ir.Value(
        name=f"{name}_quantised",
        const_value=onnx_ir.tensor(
            integers.astype(ml_dtypes.int4) if bits == 4 else integers, dtype=kind, name=f"{name}_quantised"
        ),
    )
    scale = onnx_ir.Value(
        name=f"{name}_scale",
        const_value=onnx_ir.tensor(scales.astype(weight.dtype), name=f"{name}_scale"),
    )
    for value in (quantised, scale):
        assert value.const_value is not None  # noqa: S101 (set above)
        value.shape = onnx_ir.Shape(value.const_value.shape)
        value.type = onnx_ir.TensorType(value.const_value.dtype)
        graph.register_initializer(value)
    restore = onnx_ir.node("DequantizeLinear", [quantised, scale], {"axis": 0, "block_size": BLOCK})
    restored = restore.outputs[0]
    restored.name = f"{name}_dequantised"
    restored.shape, restored.type = kernel.shape, kernel.type
    graph.insert_before(node, restore)
    return restored


def quantise(weight: NDArray[np.float32], bits: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Integers and scales of a kernel.

    Args:
        weight: (in, out), in a multiple of `BLOCK`.
        bits: 8 or 4.

    Returns:
        (in, out) from -2^(bits-1) to 2^(bits-1) - 1, and (in / BLOCK, out).
    """
    largest = 2 ** (bits - 1) - 1
    blocks = weight.reshape(-1, BLOCK, weight.shape[1])
    # The weight of the largest magnitude becomes -2^(bits-1), the end with one step more.
    places = np.abs(blocks).argmax(axis=1)
    extreme = np.take_along_axis(blocks, places[:, None], axis=1)[:, 0]
    scales = -extreme / (largest + 1)
    scales[scales == 0] = 1
    integers = np.clip(np.round(blocks / scales[:, None]), -largest - 1, largest)
    return integers.reshape(weight.shape).astype(np.int8), scales.astype(np.float32)
