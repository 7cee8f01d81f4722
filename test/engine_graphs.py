# SPDX-License-Identifier: Apache-2.0
"""Small ONNX graphs made by hand, and the manifests that describe them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pixelrefer_ros.runtime.manifest import (
    DataFile,
    Graph,
    Manifest,
    Profile,
    TensorSpec,
    file_hash,
    read_manifest,
    write_manifest,
)

DTYPES = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.INT64: "int64",
    TensorProto.INT32: "int32",
    TensorProto.UINT8: "uint8",
    TensorProto.BOOL: "bool",
}
ELEMENT = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
WIDTH, HEADS, KV_HEADS = 64, 4, 2
HEAD = 16  # the smallest for which TensorRT has fused attention


def write_folder(
    folder: Path,
    models: dict[str, onnx.ModelProto],
    *,
    precision: str = "fp32",
    profiles: dict[str, Profile] | None = None,
    in_place: Sequence[tuple[str, str]] = (),
    external_data: bool = False,
) -> Manifest:
    """Writes graphs as `pixelrefer export` does: files, hashes, manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    graphs = {}
    for name, model in models.items():
        data: tuple[DataFile, ...] = ()
        if external_data:
            onnx.save(
                model,
                folder / f"{name}.onnx",
                save_as_external_data=True,
                location=f"{name}.data",
                size_threshold=0,
            )
            data = (DataFile(f"{name}.data", file_hash(folder / f"{name}.data")),)
        else:
            onnx.save(model, folder / f"{name}.onnx")
        inputs, outputs = _specs(model.graph.input), _specs(model.graph.output)
        symbols = {size for spec in inputs for size in spec.shape if isinstance(size, str)}
        graphs[name] = Graph(
            name=name,
            file=f"{name}.onnx",
            sha256=file_hash(folder / f"{name}.onnx"),
            data=data,
            inputs=inputs,
            outputs=outputs,
            in_place=tuple(pair for pair in in_place if pair[0] in {spec.name for spec in inputs}),
            profiles={symbol: sizes for symbol, sizes in (profiles or {}).items() if symbol in symbols},
        )
    manifest = Manifest(
        kind="pixelrefer-lite",
        name="small",
        source={"name": "small", "content_hash": "0" * 64},
        precision=precision,
        opset=max(opset.version for model in models.values() for opset in model.opset_import),
        versions={"onnx": onnx.__version__},
        settings={},
        graphs=graphs,
    )
    write_manifest(folder, manifest)
    return manifest


def _specs(values: Sequence[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            value.name,
            DTYPES[value.type.tensor_type.elem_type],
            tuple(size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim),
        )
        for value in values
    )


def projection(precision: str = "fp32", *, opset: int = 24) -> onnx.ModelProto:
    """``y = relu(x W)``: x (rows, 64), y (rows, 64); "rows" is a symbol."""
    element = ELEMENT[precision]
    return _model(
        [helper.make_node("MatMul", ["x", "W"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        [helper.make_tensor_value_info("x", element, ["rows", WIDTH])],
        [helper.make_tensor_value_info("y", element, ["rows", WIDTH])],
        [_weight("W", (WIDTH, WIDTH), element)],
        opset,
    )


def decoder(precision: str = "fp32", *, layers: int = 2, context: int = 64) -> onnx.ModelProto:
    """A decoder of attention layers with a cache updated in place; opset 24.

    Inputs: inputs_embeds (batch, sequence, 64), start (batch), past_key_i and past_value_i
    (batch, 2, context, 16). Outputs: hidden (batch, sequence, 64), present_key_i, present_value_i.
    """
    element = ELEMENT[precision]
    cache = ["batch", KV_HEADS, context, HEAD]
    angles = np.arange(context)[:, None] / 100 ** (np.arange(HEAD // 2) / (HEAD // 2))
    weights = [
        _tensor("cos", np.cos(angles), element),
        _tensor("sin", np.sin(angles), element),
        numpy_helper.from_array(np.arange(context), "columns"),
        numpy_helper.from_array(np.array([1]), "first"),
        numpy_helper.from_array(np.array(1), "one"),
        numpy_helper.from_array(np.array(0), "zero"),
        numpy_helper.from_array(np.array([0, 0, HEADS, HEAD]), "split"),
        numpy_helper.from_array(np.array([0, 0, KV_HEADS, HEAD]), "split_kv"),
        numpy_helper.from_array(np.array([0, 0, WIDTH]), "joined"),
    ]
    node = helper.make_node
    nodes = [
        # positions (batch, sequence) = start + arange(sequence); a column is seen up to its row's position
        node("Shape", ["inputs_embeds"], ["length_1"], start=1, end=2),
        node("Squeeze", ["length_1"], ["length"]),
        node("Range", ["zero", "length", "one"], ["rows"]),
        node("Unsqueeze", ["start", "first"], ["start_column"]),
        node("Add", ["start_column", "rows"], ["positions"]),
        node("Unsqueeze", ["positions", "mask_axes"], ["positions_mask"]),
        node("LessOrEqual", ["columns", "positions_mask"], ["mask"]),
    ]
    weights.append(numpy_helper.from_array(np.array([1, 3]), "mask_axes"))
    inputs = [
        helper.make_tensor_value_info("inputs_embeds", element, ["batch", "sequence", WIDTH]),
        helper.make_tensor_value_info("start", TensorProto.INT64, ["batch"]),
    ]
    outputs = [helper.make_tensor_value_info("hidden", element, ["batch", "sequence", WIDTH])]
    hidden = "inputs_embeds"
    for i in range(layers):
        for which, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            weights.append(_weight(f"W{which}_{i}", (WIDTH, heads * HEAD), element))
            split = "split" if which == "q" else "split_kv"
            nodes += [
                node("MatMul", [hidden, f"W{which}_{i}"], [f"{which}_flat_{i}"]),
                node("Reshape", [f"{which}_flat_{i}", split], [f"{which}_split_{i}"]),
                node("Transpose", [f"{which}_split_{i}"], [f"{which}_{i}"], perm=[0, 2, 1, 3]),
            ]
        for which in ("q", "k"):
            nodes.append(
                node("RotaryEmbedding", [f"{which}_{i}", "cos", "sin", "positions"], [f"{which}r_{i}"])
            )
        for which, new in (("key", f"kr_{i}"), ("value", f"v_{i}")):
            past, present = f"past_{which}_{i}", f"present_{which}_{i}"
            nodes.append(node("TensorScatter", [past, new, "start"], [present], axis=2))
            inputs.append(helper.make_tensor_value_info(past, element, cache))
            outputs.append(helper.make_tensor_value_info(present, element, cache))
        weights.append(_weight(f"Wo_{i}", (WIDTH, WIDTH), element))
        following = "hidden" if i == layers - 1 else f"hidden_{i}"
        nodes += [
            node("Attention", [f"qr_{i}", f"present_key_{i}", f"present_value_{i}", "mask"], [f"seen_{i}"]),
            node("Transpose", [f"seen_{i}"], [f"seen_t_{i}"], perm=[0, 2, 1, 3]),
            node("Reshape", [f"seen_t_{i}", "joined"], [f"seen_flat_{i}"]),
            node("MatMul", [f"seen_flat_{i}", f"Wo_{i}"], [f"out_{i}"]),
            node("Add", [hidden, f"out_{i}"], [following]),
        ]
        hidden = following
    return _model(nodes, inputs, outputs, weights, 24)


def attention(
    precision: str = "fp32",
    *,
    heads: int = 1,
    queries: int = 6,
    batch: str | int = "N",
    masked: bool = False,
) -> onnx.ModelProto:
    """``y = attention(q, k, v)``: q (batch, heads, queries, 16), k and v of 8 positions; opset 24.

    If it is ``masked``, ``mask`` (batch, 1, queries, 8) bool says which are seen.
    """
    element, value = ELEMENT[precision], helper.make_tensor_value_info
    inputs = [
        value(name, element, [batch, heads, length, HEAD])
        for name, length in (("q", queries), ("k", 8), ("v", 8))
    ]
    if masked:
        inputs.append(value("mask", TensorProto.BOOL, [batch, 1, queries, 8]))
    node = helper.make_node("Attention", [one.name for one in inputs], ["y"], scale=0.3)
    return _model([node], inputs, [value("y", element, [batch, heads, queries, HEAD])], [], 24)


def caches(layers: int = 2) -> list[tuple[str, str]]:
    """The in-place pairs of `decoder`."""
    return [
        (f"past_{which}_{i}", f"present_{which}_{i}") for i in range(layers) for which in ("key", "value")
    ]


def with_unused_cache_lengths(model: onnx.ModelProto) -> onnx.ModelProto:
    """The decoder with Attention's `nonpad_kv_seqlen`, which TensorRT RTX drops."""
    for node in model.graph.node:
        if node.op_type == "Attention":
            node.input.extend(["", "", "start"])
    return model


def as_bf16(folder: Path, copy: Path) -> Manifest:
    """A copy of an exported fp16 folder with every fp16 in it bf16: the same operators, for compiling only.

    (Exporting anew takes half a minute and gives these very graphs, but for rounding.)
    """
    manifest = read_manifest(folder)
    copy.mkdir(parents=True)
    graphs = {}
    for name, graph in manifest.graphs.items():
        model = onnx.load(folder / graph.file)
        for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
            if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
                value.type.tensor_type.elem_type = TensorProto.BFLOAT16
        for node in model.graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    _to_bf16(attribute.t)
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                    attribute.i = TensorProto.BFLOAT16
        for tensor in model.graph.initializer:
            _to_bf16(tensor)
        onnx.save(model, copy / graph.file)
        graphs[name] = replace(
            graph,
            sha256=file_hash(copy / graph.file),
            data=(),
            on_host=False,
            inputs=_specs(model.graph.input),
            outputs=_specs(model.graph.output),
        )
    swapped = replace(manifest, precision="bf16", graphs=graphs)
    write_manifest(copy, swapped)
    return swapped


def _to_bf16(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        tensor.CopyFrom(_tensor(tensor.name, numpy_helper.to_array(tensor), TensorProto.BFLOAT16))


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto],
    opset: int,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "small", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _weight(name: str, shape: tuple[int, ...], element: int) -> onnx.TensorProto:
    seed = np.frombuffer(name.encode(), dtype=np.uint8).tolist()
    return _tensor(name, np.random.default_rng(seed).normal(0, shape[0] ** -0.5, shape), element)


def _tensor(name: str, values: np.ndarray, element: int) -> onnx.TensorProto:
    dtype = helper.tensor_dtype_to_np_dtype(element)
    return numpy_helper.from_array(values.astype(np.float32).astype(dtype), name)
