# SPDX-License-Identifier: Apache-2.0
"""Decoders with int8 and int4 weights compile under TensorRT RTX, whatever they are computed with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from engine_graphs import as_bf16
from pixelrefer_ros.engines import BuildOptions, build_engine, unsupported
from pixelrefer_ros.export import export_dtype, export_graph
from pixelrefer_ros.export.language import plan_graphs
from pixelrefer_ros.export.quantise import BLOCKS

from pixelrefer_ros.model import load_network, write_tiny_checkpoint
from pixelrefer_ros.runtime import Manifest, read_manifest, write_manifest

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT RTX has wheels for x86-64 only")
torch.set_num_threads(1)
pytestmark = [
    pytest.mark.xdist_group("tensorrt"),  # its builds take all cores: never two at once
    pytest.mark.slow,
    pytest.mark.timeout(600),  # exports, on a busy machine
]
PRECISIONS = ("int8", "int4")


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer, in folders named by activations and precision; some of its weights are zeros."""
    folders = tmp_path_factory.mktemp("decoders")
    checkpoint = write_tiny_checkpoint(
        folders / "checkpoint", vision_layers=1, language_layers=1, context_length=32
    )
    for activations, precision in (("fp32", "int8"), ("fp16", "int8"), ("fp16", "int4")):
        dtype = export_dtype(precision, activations)
        network = load_network(checkpoint, device=torch.device("cpu"), dtype=dtype)
        weight = network.language.model.layers[0].mlp.up_proj.weight
        weight[:2] = 0
        weight[2, : BLOCKS[8]] = 0
        *_, plan = plan_graphs(network, opset=24, context_length=32, patch_budget=600, precision=precision)
        folder = folders / f"{activations}-{precision}"
        folder.mkdir()
        graph = export_graph(plan, folder, opset=24)
        manifest = Manifest("pixelrefer-lite", "small", {}, precision, 24, {}, {}, {"decoder": graph})
        write_manifest(folder, manifest)
        if activations == "fp16":
            half = as_bf16(folder, folders / f"bf16-{precision}")
            write_manifest(folders / f"bf16-{precision}", replace(half, precision=precision))
    return folders


@pytest.mark.parametrize(
    ("activations", "precision"),
    [("fp32", "int8"), *((half, precision) for half in ("fp16", "bf16") for precision in PRECISIONS)],
)
def test_quantised_decoder_builds_with_its_weights_as_integers(
    decoders: Path, activations: str, precision: str
) -> None:
    folder = decoders / f"{activations}-{precision}"
    manifest = read_manifest(folder)
    graph = manifest.graphs["decoder"]
    model = onnx.load(folder / graph.file)
    restored = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert len(restored) == 7 + 1
    # Plain TensorRT documents int4 in these blocks, and int8 in none; nothing else is in its way.
    problems = unsupported(model, manifest.opset)
    assert len(problems) == (len(restored) if precision == "int8" else 0)
    assert all("numbers of INT8 is not documented" in problem for problem in problems)

    options = BuildOptions(workspace_mb=256, compute_capabilities=[(8, 9)], fused=activations != "fp32")
    built = build_engine(trt, folder, graph, precision=precision, profiles=graph.profiles, options=options)
    assert built.layers["DEQUANTIZE"] == len(restored)
    assert (built.layers["KV_CACHE_UPDATE"], built.layers["ATTENTION_OUTPUT"]) == (2, 1)


def test_scales_in_a_graph_are_positive_also_those_of_zeros(decoders: Path) -> None:
    model = onnx.load(decoders / "fp16-int8" / "decoder.onnx")
    tensors = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    scales = {name: values for name, values in tensors.items() if name.endswith("_scale")}
    assert len(scales) == 7 + 1
    assert all((values > 0).all() for values in scales.values())
    zeros = next(values for name, values in tensors.items() if "up.kernel_quantised" in name)
    assert not zeros[:, :2].any() and not zeros[: BLOCKS[8], 2].any()
    assert np.count_nonzero(zeros[BLOCKS[8] :, 2])
