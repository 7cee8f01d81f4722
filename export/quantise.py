# SPDX-License-Identifier: Apache-2.0
"""Weights as small integers: ``DequantizeLinear`` before matrix products, which both runtimes know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir
from numpy.typing import NDArray

QUANTISED = {"int8": 8, "int4": 4}
"""Precisions with quantised weights, and their bits."""
BLOCKS = {8: 32, 4: 64}
"""By bits: how many weights of one column share a scale. TensorRT documents int4 by 64 or 128."""
SMALLEST_SCALE = 2.0**-24
"""That of blocks that are all zeros: the smallest positive float16, far below any step that matters."""


@dataclass(frozen=True, slots=True)
class Quantised:
    """How much of a graph was quantised.

    Attributes:
        kernels: weights of matrix products that are integers now.
        of_kernels: all weights of matrix products.
        share: of the numbers in all of them, those that are integers now; 0 to 1.
    """

    kernels: int
    of_kernels: int
    share: float


def quantise_weights(model: onnx_ir.Model, *, bits: int) -> Quantised:
    """Replaces the weights of matrix products by integers with scales; in place.

    Symmetric: a weight is integer x scale, one scale for `BLOCKS` consecutive weights of a column. Products
    whose inner size is no multiple of the block stay as they are.

    Args:
        model: the graph; its initializers are replaced.
        bits: 8 or 4.

    Returns:
        How many were, and how many were not.
    """
    graph = model.graph
    done: dict[str, onnx_ir.Value] = {}
    sizes: dict[str, int] = {}
    for node in list(graph):
        kernel = node.inputs[1] if node.op_type == "MatMul" else None
        if kernel is None or kernel.name is None or kernel.const_value is None:
            continue
        if kernel.name not in done:
            weight = kernel.const_value.numpy()
            sizes[kernel.name] = weight.size
            if weight.ndim != 2 or weight.shape[0] % BLOCKS[bits]:
                continue
            done[kernel.name] = _dequantised(graph, node, kernel, weight, bits)
        node.replace_input_with(1, done[kernel.name])
    for name in done:
        if not graph.initializers[name].uses():
            del graph.initializers[name]
    numbers = sum(sizes.values())
    share = sum(sizes[name] for name in done) / numbers if numbers else 0.0
    return Quantised(len(done), len(sizes), share)


def _dequantised(
    graph: onnx_ir.Graph, node: onnx_ir.Node, kernel: onnx_ir.Value, weight: NDArray[Any], bits: int
) -> onnx_ir.Value:
    """A ``DequantizeLinear`` node before `node`; returns its output."""
    integers, scales = quantise(weight, bits)
    name = str(kernel.name)
    stored = initializer(
        graph, f"{name}_quantised", integers.astype(ml_dtypes.int4) if bits == 4 else integers
    )
    scale = initializer(graph, f"{name}_scale", scales)
    restore = onnx_ir.node("DequantizeLinear", [stored, scale], {"axis": 0, "block_size": BLOCKS[bits]})
    restored = restore.outputs[0]
    restored.name = f"{name}_dequantised"
    restored.shape, restored.type = kernel.shape, kernel.type
    graph.insert_before(node, restore)
    return restored


def initializer(graph: onnx_ir.Graph, name: str, array: NDArray[Any]) -> onnx_ir.Value:
    """A constant of the graph."""
    tensor = onnx_ir.tensor(array, name=name)
    kind = onnx_ir.TensorType(tensor.dtype)
    value = onnx_ir.Value(name=name, const_value=tensor, shape=onnx_ir.Shape(array.shape), type=kind)
    graph.register_initializer(value)
    return value


def quantise(weight: NDArray[Any], bits: int) -> tuple[NDArray[np.int8], NDArray[Any]]:
    """Integers and scales of a kernel.

    Scales are positive, also those of blocks that are all zeros: TensorRT refuses others.

    Args:
        weight: (in, out), in a multiple of the block; float32, float16 or bfloat16.
        bits: 8 or 4.

    Returns:
        (in, out) from -2^(bits-1) to 2^(bits-1) - 1, and (in / `BLOCKS`, out) in the weight's dtype.
    """
    largest = 2 ** (bits - 1) - 1
    blocks = weight.reshape(-1, BLOCKS[bits], weight.shape[1]).astype(np.float32)
    # The negative side has one step more.
    steps = np.maximum(blocks.max(axis=1) / largest, blocks.min(axis=1) / -(largest + 1))
    steps = np.maximum(steps, SMALLEST_SCALE)
    scales = steps.astype(weight.dtype)
    # Rounded up: the largest weight must not be cut off.
    above = np.nextafter(scales, np.array(np.inf, weight.dtype))
    scales = np.where(scales.astype(np.float32) < steps, above, scales)
    integers = np.rint(blocks / scales.astype(np.float32)[:, None])
    return integers.reshape(weight.shape).astype(np.int8), scales
