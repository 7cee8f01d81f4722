# SPDX-License-Identifier: Apache-2.0
"""``pixelrefer export`` names what it writes, and what int8 and int4 leave as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from pixelrefer_ros.export.quantise import BLOCKS, Quantised, quantise_weights

from pixelrefer_ros.cli import main
from pixelrefer_ros.model import write_tiny_checkpoint
from pixelrefer_ros.runtime import newest_opset, read_manifest

torch.set_num_threads(1)
OTHERS = ("objects", "embed", "decoder")


def products(*inner_sizes: int) -> onnx_ir.Model:
    """``y_i = x_i W_i`` for weights (inner, 8), and ``z = x_0 v_0`` with a kernel that is no weight."""
    nodes, inputs, outputs, weights = [], [], [], []
    for i, inner in enumerate(inner_sizes):
        weights.append(numpy_helper.from_array(np.ones((inner, 8), np.float32), f"W{i}"))
        inputs.append(helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [2, inner]))
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [2, 8]))
        nodes.append(helper.make_node("MatMul", [f"x{i}", f"W{i}"], [f"y{i}"]))
    inputs.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, [inner_sizes[0], 8]))
    outputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 8]))
    nodes.append(helper.make_node("MatMul", ["x0", "v"], ["z"]))
    graph = helper.make_graph(nodes, "products", inputs, outputs, weights)
    return onnx_ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)]))


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_that_were_and_were_not_quantised_are_counted(bits: int) -> None:
    block = BLOCKS[bits]
    model = products(2 * block, block + 8, block)
    found = quantise_weights(model, bits=bits)
    assert found == Quantised(kernels=2, of_kernels=3, share=pytest.approx(3 * block / (4 * block + 8)))
    assert sum(node.op_type == "DequantizeLinear" for node in model.graph) == 2


@pytest.mark.skipif(newest_opset() < 24, reason="this onnxruntime has no opset 24")
@pytest.mark.timeout(600)  # an export, on a busy machine
def test_export_names_its_graphs_and_says_how_much_it_quantised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a width of 48 only the inner size of ``down_proj``, 96, is a multiple of 32.

    The vision encoder multiplies integers only where that is asked for.
    """
    sizes = {"vision_layers": 1, "language_layers": 1, "language_width": 48, "mask_num": 4}
    checkpoint = write_tiny_checkpoint(tmp_path / "small", **sizes)
    out = tmp_path / "out"
    options = ["--precision", "int8", "--context", "64", "--int8-vision"]
    assert main(["export", str(checkpoint), "--out", str(out), *options]) == 0
    printed, warned = capsys.readouterr()
    assert "opset 24" in printed and warned == ""
    for name in ("vision", "objects", "embed", "decoder"):
        assert f"{name}.onnx" in printed
    manifest = read_manifest(out)
    assert (manifest.name, manifest.opset, manifest.settings["context_length"]) == ("small", 24, 64)
    assert {"config.json", "manifest.json", "tokenizer.json"} <= {path.name for path in out.iterdir()}
    assert manifest.settings["int8_vision"] is True
    kinds = [node.op_type for node in onnx.load(out / "vision.onnx").graph.node]
    assert (kinds.count("MatMulInteger"), kinds.count("MatMul")) == (7, 0)
    assert not any(b"MatMulInteger" in (out / f"{name}.onnx").read_bytes() for name in OTHERS)
    model = onnx.load(out / "decoder.onnx")
    restored = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    quantised = manifest.settings["quantised"]
    assert (len(restored), quantised["kernels"], quantised["of_kernels"]) == (1, 1, 8)
    of_all = 96 * 48 / (2 * 48 * 48 + 2 * 48 * 24 + 3 * 48 * 96 + 48 * _vocabulary(out))
    assert quantised["share"] == pytest.approx(of_all)
    assert f"decoder.onnx: 1 of 8 weight matrices are int8, {100 * of_all:.1f} % of their numbers" in printed


def _vocabulary(folder: Path) -> int:
    size = read_manifest(folder).graphs["decoder"].output("logits").shape[-1]
    assert isinstance(size, int)
    return size
