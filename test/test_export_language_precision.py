# SPDX-License-Identifier: Apache-2.0
"""What half precision and quantised weights may cost: stated, and met by every graph."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exported_models import exported_tiny
from hypothesis import given
from hypothesis import strategies as st
from pixelrefer_ros.export import export_dtype, export_graph
from pixelrefer_ros.export.language import plan_graphs
from pixelrefer_ros.export.quantise import BLOCKS, quantise

from pixelrefer_ros.errors import ParameterError
from pixelrefer_ros.model import PixelReferNetwork, load_network
from pixelrefer_ros.model.compiled import open_network
from pixelrefer_ros.offline.export import export_model
from pixelrefer_ros.offline.verify_report import ROUNDING
from pixelrefer_ros.runtime import (
    GraphDecoder,
    Manifest,
    OnnxRuntimeBackend,
    newest_opset,
    read_manifest,
)

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.skipif(newest_opset() < 24, reason="this onnxruntime has no opset 24"),
    pytest.mark.timeout(600),  # exports, on a busy machine
]
CPU = torch.device("cpu")


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_tiny(tmp_path_factory)[0]


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> PixelReferNetwork:
    return load_network(checkpoint, device=CPU, dtype=torch.float32)


def test_half_precision_stays_near_float32_in_every_graph(
    tmp_path_factory: pytest.TempPathFactory, reference: PixelReferNetwork
) -> None:
    _, folder = exported_tiny(tmp_path_factory, precision="fp16")
    network = open_network(folder, OnnxRuntimeBackend(threads=1), CPU)
    assert network.dtype == torch.float16
    frame = np.random.default_rng(3).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    masks = [np.zeros((240, 320), dtype=bool) for _ in range(2)]
    masks[0][20:180, 60:200], masks[1][200:202, 10:300] = True, True
    whole, found = reference.encode_global(frame), network.encode_global(frame)
    assert error(found.features, whole.features) < ROUNDING["fp16"]
    for tokens, expected in zip(
        network.encode_objects(frame, masks, found),
        reference.encode_objects(frame, masks, whole),
        strict=True,
    ):
        assert error(tokens, expected) < ROUNDING["fp16"]
    prompt = torch.randn(24, 128)
    assert error(network.logits(prompt.half()), reference.logits(prompt)) < ROUNDING["fp16"]


def widened(path: Path) -> onnx.ModelProto:
    """A bfloat16 graph with its element type made float32: ONNX Runtime has no bfloat16 products on a CPU.

    The weights keep their bfloat16 values; what is checked is the graph, and what rounding weights costs.
    """
    model = onnx.load(path)
    half, single = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == half:
            value.type.tensor_type.elem_type = single
    del model.graph.value_info[:]
    tensors = list(model.graph.initializer)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                tensors.append(attribute.t)
            elif attribute.name == "to" and attribute.i == half:
                attribute.i = single
    for tensor in tensors:
        if tensor.data_type == half:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return model


def test_bfloat16_graphs_compute_the_same_from_rounded_weights(
    checkpoint: Path, tmp_path: Path, reference: PixelReferNetwork
) -> None:
    network = load_network(checkpoint, device=CPU, dtype=torch.bfloat16)
    plans = plan_graphs(network, opset=24, context_length=64, patch_budget=600)
    exact = plan_graphs(reference, opset=24, context_length=64, patch_budget=600)
    for plan, plan32 in zip(plans, exact, strict=True):
        graph = export_graph(plan, tmp_path, opset=24)
        kinds = {spec.dtype for spec in (*graph.inputs, *graph.outputs)}
        assert "bfloat16" in kinds and "float16" not in kinds
        session = onnxruntime.InferenceSession(widened(tmp_path / graph.file).SerializeToString())
        found = torch.from_numpy(session.run(None, {k: v.numpy() for k, v in plan32.inputs.items()})[0])
        with torch.no_grad():
            expected = plan32.module(*plan32.inputs.values())
        expected = expected[0] if isinstance(expected, tuple) else expected
        assert error(found, expected) < ROUNDING["bf16"], plan.name


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantised_decoder_stays_near_float32(
    precision: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, reference: PixelReferNetwork
) -> None:
    *_, plan = plan_graphs(reference, opset=24, context_length=64, patch_budget=600, precision=precision)
    graph = export_graph(plan, tmp_path, opset=24)
    model = onnx.load(tmp_path / graph.file)
    onnx.checker.check_model(model)
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    restored = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    assert len(products) == 7 * 2 + 1
    assert all(node.input[1] in restored for node in products)
    kind = {"int8": onnx.TensorProto.INT8, "int4": onnx.TensorProto.INT4}[precision]
    assert sum(value.data_type == kind for value in model.graph.initializer) == len(products)

    backend = OnnxRuntimeBackend(threads=1)
    embed = open_network(exported_tiny(tmp_path_factory)[1], backend, CPU).embed
    decoder = GraphDecoder(backend.open(tmp_path, graph), embed.answers, context_length=64, device=CPU)
    prompt = torch.randn(24, 128)
    found = torch.from_numpy(decoder.logits(prompt))
    assert error(found, reference.logits(prompt)) < ROUNDING[precision]


def test_vision_encoder_of_integers_stays_near_float32(tmp_path: Path, reference: PixelReferNetwork) -> None:
    plans = plan_graphs(reference, opset=24, context_length=64, patch_budget=600, int8_vision=True)
    plan = next(plans)
    assert all(other.rewrite is None for other in plans)
    graph = export_graph(plan, tmp_path, opset=24)
    onnx.checker.check_model(onnx.load(tmp_path / graph.file))
    session = OnnxRuntimeBackend(threads=1).open(tmp_path, graph)
    random = np.random.default_rng(5)
    for grids in ([[16, 16]], [[4, 6], [5, 5], [3, 2]]):
        pictures = torch.tensor(grids)
        patches = torch.from_numpy(
            random.uniform(-1, 1, (int(pictures.prod(dim=1).sum()), 588)).astype(np.float32)
        )
        with torch.no_grad():
            expected = plan.module(patches, pictures)
        found = session.run({"patches": patches, "grids": pictures})["features"]
        assert ROUNDING["int8 vision"] / 20 < error(found, expected) < ROUNDING["int8 vision"]


def test_vision_encoder_of_integers_is_for_a_cpu(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"int8_vision is for a CPU.*float16.*export in fp32"):
        export_model(checkpoint, tmp_path / "out", precision="fp16", int8_vision=True)
    assert not (tmp_path / "out").exists()


def test_quantised_weights_may_be_computed_with_in_half_precision(
    checkpoint: Path, tmp_path: Path, reference: PixelReferNetwork
) -> None:
    network = load_network(checkpoint, device=CPU, dtype=export_dtype("int4", "fp16"))
    *_, plan = plan_graphs(network, opset=24, context_length=64, patch_budget=600, precision="int4")
    graph = export_graph(plan, tmp_path, opset=24)
    assert graph.input("past_key_0").dtype == "float16"
    session = OnnxRuntimeBackend(threads=1).open(tmp_path, graph)
    feeds = {name: tensor.clone() for name, tensor in plan.inputs.items()}
    with torch.no_grad():
        expected = plan.module(*plan.inputs.values())[0]
    assert error(session.run(feeds)["logits"], expected) < ROUNDING["int4"]
    with pytest.raises(ParameterError, match="leave one out"):
        export_dtype("fp32", "fp16")


@given(
    bits=st.sampled_from([8, 4]),
    blocks=st.integers(1, 4),
    columns=st.integers(1, 5),
    spread=st.floats(1e-4, 1e3),
    seed=st.integers(0, 1 << 16),
    kind=st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16]),
)
def test_quantised_weight_is_half_a_step_from_the_weight_at_most(
    bits: int, blocks: int, columns: int, spread: float, seed: int, kind: type[np.generic]
) -> None:
    random, block = np.random.default_rng(seed), BLOCKS[bits]
    weight = (spread * random.standard_normal((blocks * block, columns))).astype(kind)
    weight[:block, 0] = 0  # a block of zeros has a scale all the same
    integers, scales = quantise(weight, bits)
    assert scales.dtype == weight.dtype and (scales > 0).all()
    assert integers.min() >= -(2 ** (bits - 1)) and integers.max() < 2 ** (bits - 1)
    steps = np.repeat(scales.astype(np.float32), block, axis=0)
    errors = np.abs(integers * steps - weight.astype(np.float32))
    assert (errors <= 0.5 * steps * (1 + 1e-4)).all()  # beside it: roundings of the division in float32
    assert np.count_nonzero(integers[:block, 0]) == 0


def test_manifest_names_the_precision(tmp_path_factory: pytest.TempPathFactory) -> None:
    manifest: Manifest = read_manifest(exported_tiny(tmp_path_factory, precision="fp16")[1])
    assert manifest.precision == "fp16"
    assert manifest.graphs["decoder"].output("logits").dtype == "float32"
