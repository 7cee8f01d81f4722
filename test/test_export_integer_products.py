# SPDX-License-Identifier: Apache-2.0
"""Products of integers in place of products of float32, run by ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from pixelrefer_ros.export.integer_products import LARGEST, multiply_integers


def graph_of(*weights: np.ndarray) -> onnx.ModelProto:
    """``y_i = x W_i`` for one x, and ``z = x v`` with a v that is an input."""
    inner = weights[0].shape[0]
    names = [f"W{i}" for i in range(len(weights))]
    nodes = [helper.make_node("MatMul", ["x", name], [f"y{i}"]) for i, name in enumerate(names)]
    nodes.append(helper.make_node("MatMul", ["x", "v"], ["z"]))
    value = helper.make_tensor_value_info
    inputs = [value("x", TensorProto.FLOAT, ["N", inner]), value("v", TensorProto.FLOAT, [inner, 2])]
    outputs = [value(f"y{i}", TensorProto.FLOAT, ["N", weight.shape[1]]) for i, weight in enumerate(weights)]
    constants = [numpy_helper.from_array(weight, name) for weight, name in zip(weights, names, strict=True)]
    outputs.append(value("z", TensorProto.FLOAT, ["N", 2]))
    graph = helper.make_graph(nodes, "products", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def rewritten(*weights: np.ndarray) -> tuple[onnx.ModelProto, int]:
    model = onnx_ir.from_proto(graph_of(*weights))
    count = multiply_integers(model)
    proto = onnx_ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto, count


def run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x, "v": np.ones((x.shape[1], 2), np.float32)})


def most_off(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """How far ``x W`` may be off, (N, out): half a step of either factor with the other, and of both."""
    x_step = (max(x.max(), 0.0) - min(x.min(), 0.0)) / 255
    steps = np.abs(weight).max(axis=0) / LARGEST
    # The zero of x is rounded to an integer too, so that its numbers may be off by a whole step.
    of_x = x_step * np.abs(weight).sum(axis=0)
    of_weight = 0.5 * steps * np.abs(x).sum(axis=1, keepdims=True)
    return of_x + of_weight + 0.5 * x_step * steps * x.shape[1] + 1e-5 * np.abs(x @ weight) + 1e-6


@given(
    rows=st.integers(1, 9),
    inner=st.sampled_from([1, 3, 32, 100]),
    columns=st.integers(1, 40),
    offset=st.floats(-5, 5),
    spread=st.floats(1e-3, 1e2),
    seed=st.integers(0, 1 << 16),
)
def test_products_are_as_near_as_rounding_both_factors_lets_them_be(
    rows: int, inner: int, columns: int, offset: float, spread: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    x = (offset + spread * random.standard_normal((rows, inner))).astype(np.float32)
    weight = random.standard_normal((inner, columns)).astype(np.float32)
    weight[:, 0] = 0  # a column of zeros has a scale all the same
    model, _ = rewritten(weight)
    found = run(model, x)[0]
    assert (np.abs(found - x @ weight) <= most_off(x, weight)).all()
    assert not found[:, 0].any()


@pytest.mark.parametrize("sign", [1, -1])
def test_sums_of_the_largest_numbers_do_not_overflow(sign: int) -> None:
    """On CPUs that add two products in 16 bits these would be half as large with integers up to 127."""
    x = np.ones((4, 512), np.float32)
    weight = np.full((512, 16), sign, np.float32)
    model, _ = rewritten(weight)
    np.testing.assert_allclose(run(model, x)[0], x @ weight, rtol=1e-5)


def test_what_several_products_share_is_rounded_once_and_nothing_else_changes() -> None:
    random = np.random.default_rng(0)
    weights = [random.standard_normal((32, size)).astype(np.float32) for size in (8, 8, 24)]
    model, count = rewritten(*weights)
    kinds = [node.op_type for node in model.graph.node]
    assert count == 3
    assert (kinds.count("DynamicQuantizeLinear"), kinds.count("MatMulInteger")) == (1, 3)
    assert kinds.count("MatMul") == 1  # of an input
    integers = {one.name: one.data_type for one in model.graph.initializer if one.name.endswith("_quantised")}
    assert list(integers.values()) == [TensorProto.INT8] * 3
    assert not {one.name for one in model.graph.initializer} & {"W0", "W1", "W2"}
    original = graph_of(*weights)
    assert [value.name for value in model.graph.output] == [value.name for value in original.graph.output]
    x = random.standard_normal((5, 32)).astype(np.float32)
    np.testing.assert_allclose(run(model, x)[-1], run(original, x)[-1], rtol=1e-6)
