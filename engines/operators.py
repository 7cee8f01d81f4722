# SPDX-License-Identifier: Apache-2.0
"""The ONNX operators that plain TensorRT reads, of those that exported graphs use, and their element types.

TensorRT RTX, which compiles the graphs in the tests, takes more than the plain one does; this list stands for
the plain one. It is the part of interest here of the support matrix of TensorRT's ONNX parser, as of 10.0 and
10.15: https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
from onnx import TensorProto
from pixelrefer_ros.engines.versions import FUSED_OPSET

_HALVES = frozenset((TensorProto.FLOAT, TensorProto.FLOAT16))
_FLOATS = _HALVES | {TensorProto.BFLOAT16}
_NUMBERS = _FLOATS | {TensorProto.INT32, TensorProto.INT64}
_ALL = _NUMBERS | {TensorProto.BOOL}
_ROWS = {
    "Ceil Clip Cos Erf Exp Floor IsInf Log Pow Reciprocal Round Sigmoid Sin Softmax": _FLOATS,
    "Softplus Sqrt Tanh AveragePool Conv ConvTranspose GlobalAveragePool MaxPool Resize": _FLOATS,
    "BatchNormalization GroupNormalization InstanceNormalization LayerNormalization": _FLOATS,
    "Einsum Gemm MatMul QuantizeLinear": _FLOATS,
    "Abs Add Div Gelu Max Min Mod Mul Neg Range Relu Sign Sub Sum": _NUMBERS,
    "Equal Greater GreaterOrEqual IsNaN Less LessOrEqual": _NUMBERS,
    "ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum": _NUMBERS,
    "ArgMax ArgMin DepthToSpace Pad ScatterElements ScatterND SpaceToDepth TopK": _NUMBERS,
    "Concat Constant Expand Flatten Identity Reshape Shape Size Slice Split Squeeze": _ALL,
    "Tile Transpose Trilu Unsqueeze": _ALL,
    "Gather GatherElements GatherND OneHot Where": _ALL,
    "And Not Or Xor": frozenset((TensorProto.BOOL,)),
    "Cast CastLike": _ALL | {TensorProto.UINT8},
    "ConstantOfShape": frozenset((TensorProto.FLOAT,)),
    "DequantizeLinear": frozenset((TensorProto.INT8, TensorProto.INT4)),
    "GridSample": _HALVES,
}
SINCE_10_0 = {name: types for names, types in _ROWS.items() for name in names.split()}
"""Element types by operator. `CumSum` is left out on purpose: see `pixelrefer_ros.export.counting`."""
SINCE_10_15 = {
    "Attention": _FLOATS,
    "ConstantOfShape": _ALL,
    "Pow": _NUMBERS,
    "RMSNormalization": _FLOATS,
    "RotaryEmbedding": _FLOATS,
    "TensorScatter": _FLOATS | {TensorProto.INT32},
}
"""What was added; only for graphs of opset 24."""

_TYPED_INPUTS = {"Where": 1, "OneHot": 2}
"""Which input has the element type that the matrix means, where it is not the first."""
_TYPED_OUTPUTS = ("Cast", "CastLike", "Constant", "ConstantOfShape")
"""Operators whose output's element type is one of theirs, too."""
_UNTYPED_INPUTS = ("Constant", "ConstantOfShape")
_PAST, _KV_LENGTHS = slice(4, 6), 6
"""Which inputs of Attention `past_key` and `past_value` are, and `nonpad_kv_seqlen`."""
_AXES_INPUT = {
    **{name: 1 for name in SINCE_10_0 if name.startswith("Reduce")},
    **{"Squeeze": 1, "Unsqueeze": 1, "Slice": 3, "Pad": 3},
}
"""Which input holds the axes, of the operators that need them constant."""
_MOST_OF_TOPK = 3840
_INT4_BLOCKS = (64, 128)
"""How many numbers may share a scale; of other integers TensorRT documents none that do so by blocks:
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-schemes.html."""


def unsupported(model: onnx.ModelProto, opset: int) -> list[str]:
    """What plain TensorRT would not read, or would read wrongly: a phrase each; empty if all is well.

    Args:
        model: the graph; its weights need not be loaded.
        opset: of the folder: 20 is read by TensorRT 10.0, 24 by 10.15.
    """
    allowed = SINCE_10_0 | SINCE_10_15 if opset >= FUSED_OPSET else SINCE_10_0
    problems = [f"the model has {len(model.functions)} functions of its own"] if model.functions else []
    names = [(node, _full_name(node)) for node in _nodes(model.graph)]
    problems += [
        f"operator {name} (node {node.name!r}) is not on the list for opset {opset}"
        for node, name in names
        if name not in allowed
    ]
    if problems:  # nor is it known, then, what types follow
        return problems
    constants, types = _constants(model.graph), _types(onnx.shape_inference.infer_shapes(model).graph)
    return [
        f"operator {name} (node {node.name!r}): {problem}"
        for node, name in names
        for problem in (
            *_check_types(node, allowed[name], types),
            *_check(node, constants),
            *_check_blocks(node, types),
        )
    ]


def _full_name(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def _check_types(node: onnx.NodeProto, allowed: frozenset[int], types: dict[str, int]) -> Iterator[str]:
    """The element types that count for the matrix."""
    place = _TYPED_INPUTS.get(node.op_type, 0)
    values = [] if node.op_type in _UNTYPED_INPUTS else [node.input[place]]
    values += node.output[:1] if node.op_type in _TYPED_OUTPUTS else []
    for value in values:
        if value not in types:
            yield f"the element type of {value!r} is not known"
        elif types[value] not in allowed:
            yield f"{value!r} is {TensorProto.DataType.Name(types[value])}, which it does not take"


def _check(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> Iterator[str]:
    """The restrictions of the parser, for the operators that have some."""
    given = [bool(name) for name in node.input]
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Attention" and any(given[_KV_LENGTHS:]):
        # TensorRT drops it without an error: the padding would be looked at.
        yield "nonpad_kv_seqlen is not read; mask the padding"
    if node.op_type == "Attention" and (any(given[_PAST]) or sum(map(bool, node.output)) > 1):
        yield "past_key and past_value are not read, and only its first output is there"
    if node.op_type == "TensorScatter" and "axis" in attributes and attributes["axis"].i not in (-2, 2):
        yield "its axis must be the last but one of four"
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


def _check_blocks(node: onnx.NodeProto, types: dict[str, int]) -> Iterator[str]:
    """The restrictions on numbers that share a scale by blocks."""
    block = next((attribute.i for attribute in node.attribute if attribute.name == "block_size"), 0)
    if node.op_type != "DequantizeLinear" or not block:
        return
    kind = types.get(node.input[0], TensorProto.UNDEFINED)
    if kind != TensorProto.INT4 or block not in _INT4_BLOCKS:
        known = " or ".join(str(size) for size in _INT4_BLOCKS)
        name = TensorProto.DataType.Name(kind)
        yield f"one scale for {block} numbers of {name} is not documented; INT4 by {known} is"


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


def _types(graph: onnx.GraphProto) -> dict[str, int]:
    """Element types by the name of the value, as far as they are known; of inner graphs too."""
    found = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.elem_type != TensorProto.UNDEFINED:
            found[value.name] = value.type.tensor_type.elem_type
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                found |= _types(attribute.g)
    return found


def _nodes(graph: onnx.GraphProto) -> Iterable[onnx.NodeProto]:
    """Every node, those of inner graphs (If, Loop) too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)
