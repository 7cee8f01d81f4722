# SPDX-License-Identifier: Apache-2.0
"""The ONNX operators that plain TensorRT reads, of those that exported graphs use.

TensorRT RTX, which compiles the graphs in the tests, takes more than the plain one does; this list stands for
the plain one. It follows the support matrix of TensorRT's ONNX parser (10.0) and, from 10.15 on, its release
notes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
from pixelrefer_ros.engines.versions import FUSED_OPSET

_ARITHMETIC = (
    "Abs Add Ceil Clip Cos Div Erf Exp Floor Gelu Log Max Min Mod Mul Neg Pow Reciprocal Relu Round "
    "Sigmoid Sign Sin Softmax Softplus Sqrt Sub Sum Tanh"
)
_LOGIC = "And Equal Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Not Or Where Xor"
_SHAPES = (
    "Cast CastLike Concat Constant ConstantOfShape Expand Flatten Identity Pad Range Reshape Shape Size "
    "Slice Split Squeeze Tile Transpose Trilu Unsqueeze"
)
_LOOKUPS = "ArgMax ArgMin Gather GatherElements GatherND OneHot ScatterElements ScatterND TopK"
_SUMS = "CumSum Einsum Gemm MatMul ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum"
_PICTURES = (
    "AveragePool Conv ConvTranspose DepthToSpace GlobalAveragePool GridSample MaxPool Resize SpaceToDepth"
)
_NORMS = "BatchNormalization GroupNormalization InstanceNormalization LayerNormalization"
_QUANTISED = "DequantizeLinear QuantizeLinear"

SINCE_10_0 = frozenset(
    " ".join((_ARITHMETIC, _LOGIC, _SHAPES, _LOOKUPS, _SUMS, _PICTURES, _NORMS, _QUANTISED)).split()
)
SINCE_10_15 = frozenset(("Attention", "RMSNormalization", "RotaryEmbedding", "TensorScatter"))
"""Only in graphs of opset 24."""

_KV_LENGTHS = 6
"""Which input of Attention `nonpad_kv_seqlen` is."""
_AXES_INPUT = {
    **{name: 1 for name in SINCE_10_0 if name.startswith("Reduce")},
    **{"CumSum": 1, "Squeeze": 1, "Unsqueeze": 1, "Slice": 3},
}
"""Which input holds the axes, of the operators that need them constant."""
_MOST_OF_TOPK = 3840


def unsupported(model: onnx.ModelProto, opset: int) -> list[str]:
    """What plain TensorRT would not read, or would read wrongly: a phrase each; empty if all is well.

    Args:
        model: the graph; its weights need not be loaded.
        opset: of the folder: 20 is read by TensorRT 10.0, 24 by 10.15.
    """
    allowed = SINCE_10_0 | SINCE_10_15 if opset >= FUSED_OPSET else SINCE_10_0
    constants = _constants(model.graph)
    problems = [f"the model has {len(model.functions)} functions of its own"] if model.functions else []
    for node in _nodes(model.graph):
        name = f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        if name not in allowed:
            problems.append(f"operator {name} (node {node.name!r}) is not on the list for opset {opset}")
        else:
            problems += (
                f"operator {name} (node {node.name!r}): {problem}" for problem in _check(node, constants)
            )
    return problems


def _check(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> Iterator[str]:
    """The restrictions of the parser, for the operators that have some."""
    given = [bool(name) for name in node.input]
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Attention" and any(given[_KV_LENGTHS:]):
        # TensorRT drops it without an error: the padding would be looked at.
        yield "nonpad_kv_seqlen is not read; mask the padding"
    if node.op_type == "LayerNormalization" and sum(map(bool, node.output)) > 1:
        yield "only its first output is there"
    axes = _AXES_INPUT.get(node.op_type, len(given))
    if any(given[axes : axes + 1]) and node.input[axes] not in constants:
        yield "its axes must be constants"
    if node.op_type == "TopK":
        count = constants.get(node.input[1])
        if count is not None and int(onnx.numpy_helper.to_array(count).max()) >= _MOST_OF_TOPK:
            yield f"k must be less than {_MOST_OF_TOPK}"
    if node.op_type == "ScatterND" and "reduction" in attributes and attributes["reduction"].s != b"none":
        yield "reduction is not supported"
    if node.op_type == "MaxPool" and len(node.output) > 1:
        yield "indices are not there"


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                found[node.output[0]] = attribute.t
            elif attribute.name in ("value_int", "value_ints"):
                values = list(attribute.ints) or [attribute.i]
                found[node.output[0]] = onnx.helper.make_tensor(
                    "", onnx.TensorProto.INT64, [len(values)], values
                )
    return found


def _nodes(graph: onnx.GraphProto) -> Iterable[onnx.NodeProto]:
    """Every node, those of inner graphs (If, Loop) too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)
