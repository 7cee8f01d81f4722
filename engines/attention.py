# SPDX-License-Identifier: Apache-2.0
"""Attention in a form that TensorRT has fused kernels for."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper


def split_single_heads(model: onnx.ModelProto) -> int:
    """Turns attention of one head into two heads where only those are fused; results stay the same.

    TensorRT RTX 1.7 has no fused kernel for one head with a mask, nor for one head of one batch entry (both
    are in SAM 2's memory attention), whatever the head's width; from two heads on it has. So the first and
    the second half of the queries become two heads, which share the one head of keys and values, as in
    multi-query attention: each query still sees the same keys.

    Args:
        model: with the shapes of its tensors, as it was exported; changed in place.

    Returns:
        How many were turned.
    """
    graph = model.graph
    shapes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]  # 0: a size that changes
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    nodes: list[onnx.NodeProto] = []
    turned = 0
    for node in graph.node:
        if node.op_type != "Attention" or not _is_to_split(node, shapes):
            nodes.append(node)
            continue
        turned += 1
        output, queries = node.output[0], shapes[node.input[0]][2]
        halves, whole = f"{output}/halves", f"{output}/whole"
        # In a Reshape, 0 keeps a size and -1 takes what is left.
        for name, shape in ((halves, [0, 2, queries // 2, -1]), (whole, [0, 1, queries, -1])):
            graph.initializer.append(numpy_helper.from_array(np.array(shape), name))
        for place in (0, 3)[: len(node.input) - 2]:  # the queries, and the mask if there is one
            split = f"{output}/split_{place}"
            nodes.append(helper.make_node("Reshape", [node.input[place], halves], [split]))
            node.input[place] = split
        node.output[0] = f"{output}/split"
        nodes += [node, helper.make_node("Reshape", [node.output[0], whole], [output])]
    if turned:
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
    return turned


def _is_to_split(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> bool:
    if len(node.input) not in (3, 4) or len([name for name in node.output if name]) != 1:
        return False  # with caches of its own
    query, key, _, *masks = (shapes.get(name, []) for name in node.input)
    known = all(len(shape) == 4 and shape[1] == 1 for shape in (query, key, *masks))
    if not known or query[2] == 0 or query[2] % 2:
        return False
    return masks[0][2] == query[2] if masks else query[0] == 1
