# SPDX-License-Identifier: Apache-2.0
"""SAM 2 exported in half precisions and for older TensorRT computes what torch computes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from exported_models import exported_tiny_tracker
from pixelrefer_ros.export import export_tracker
from pixelrefer_ros.export.tracker_graphs import plan_tracker_graphs
from tracker_feeds import GRAPHS, feeds, in_torch, worst
from tracking_scene import moving_frames

from pixelrefer_ros.errors import CheckpointError, ParameterError
from pixelrefer_ros.runtime import OnnxRuntimeBackend, read_manifest, verify_graph
from pixelrefer_ros.tracking import StateRules, StreamTracker, write_tiny_sam2
from pixelrefer_ros.tracking.checkpoint import load_sam2
from pixelrefer_ros.tracking.sam2 import Sam2
from pixelrefer_ros.types import Box, Region

torch.set_num_threads(1)

OBJECTS, POINTS = 3, 2
# Relative to an output's largest value. float16 has 11 bits: 5e-4 a rounding, of which some
# add up: 1.4e-3 was seen.
HALF_TOLERANCE = 5e-3
# The same sums in float32; but the exporter folds products of constants (a tenth of the picture's position
# encoding) in bfloat16, whose roundings are 4e-3 of the constant: 6e-4 was seen.
WIDE_TOLERANCE = 2e-3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_tiny_tracker(tmp_path_factory, opset=20, precision="fp16")[0]


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """float16, opset 20, another image size."""
    return exported_tiny_tracker(tmp_path_factory, opset=20, precision="fp16")[1]


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bfloat16, opset 24."""
    return exported_tiny_tracker(tmp_path_factory, precision="bf16")[1]


@pytest.mark.parametrize("graph", GRAPHS)
def test_float16_graph_is_as_near_to_float32_as_torch_in_float16(
    checkpoint: Path, half: Path, graph: str
) -> None:
    exact, model = (load_sam2(checkpoint, dtype=dtype, image_size=64) for dtype in ("float32", "float16"))
    with torch.inference_mode():
        given = feeds(Sam2(model), graph, objects=OBJECTS, points=POINTS)
    widened = {name: t.float() if t.dtype == torch.float16 else t for name, t in given.items()}
    expected = in_torch(exact, graph, widened)
    session = OnnxRuntimeBackend().open(half, read_manifest(half).graphs[graph])
    found = session.run({name: tensor.contiguous() for name, tensor in given.items()})
    assert worst(found, expected) < HALF_TOLERANCE
    assert worst(found, expected) < 2 * worst(in_torch(model, graph, given), expected) + 1e-3


def in_float32(path: Path) -> bytes:
    """A bfloat16 graph with every bfloat16 made float32: ONNX Runtime computes none on a CPU.

    The weights keep the values they were rounded to.
    """
    model = onnx_ir.load(path)
    for node in model.graph:
        for value in node.outputs:
            value.type = value.shape = None
        if node.op_type == "Cast" and node.attributes["to"].as_int() == onnx_ir.DataType.BFLOAT16:
            node.attributes["to"] = onnx_ir.AttrInt64("to", onnx_ir.DataType.FLOAT)
        assert all(a.type != onnx_ir.AttributeType.TENSOR for a in node.attributes.values()), node.op_type
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        if value.dtype == onnx_ir.DataType.BFLOAT16:
            value.type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
            if value.const_value is not None:
                value.const_value = onnx_ir.tensor(value.const_value.numpy().astype(np.float32))
    # Types between inputs and outputs are inferred again.
    outputs = read_manifest(path.parent).graphs[path.stem].outputs
    for spec, value in zip(outputs, model.graph.outputs, strict=True):
        value.type, value.shape = onnx_ir.TensorType(onnx_ir.DataType.FLOAT), onnx_ir.Shape(spec.shape)
    return onnx_ir.to_proto(model).SerializeToString()


@pytest.mark.parametrize("graph", GRAPHS)
def test_bfloat16_graph_holds_torchs_rounded_weights_and_computes_the_same(
    checkpoint: Path, brain: Path, graph: str
) -> None:
    model = load_sam2(checkpoint, dtype="bfloat16", image_size=64)
    session = onnxruntime.InferenceSession(in_float32(brain / f"{graph}.onnx"))
    with torch.inference_mode():
        given = feeds(Sam2(model), graph, objects=OBJECTS, points=POINTS)
        given = {name: t.float() if t.dtype == torch.bfloat16 else t for name, t in given.items()}
        plan = {plan.name: plan for plan in plan_tracker_graphs(model, opset=20, max_objects=16)}[graph]
        module = plan.module.float()
        if graph == "image_encoder":
            module.dtype = torch.float32
        outputs = module(*(given[name] for name in plan.inputs))
    expected = dict(zip(plan.outputs, outputs if isinstance(outputs, tuple) else (outputs,), strict=True))
    results = session.run(list(plan.outputs), {name: t.numpy() for name, t in given.items()})
    found = {name: torch.from_numpy(value) for name, value in zip(plan.outputs, results, strict=True)}
    assert worst(found, expected) < WIDE_TOLERANCE


def test_masks_followed_in_float16_overlap_those_in_float32(checkpoint: Path, half: Path) -> None:
    rules = StateRules(
        min_area_px=0, max_area_fraction=1.0, smallest_part=0.0, apart=False, remembers_absence=True
    )
    exact = StreamTracker.from_pretrained(checkpoint, image_size=64, states=rules)
    tracker = StreamTracker.from_pretrained(half, max_objects=4, states=rules)
    shared = either = 0
    for index, frame in enumerate(moving_frames(12)):
        for one in (exact, tracker):
            if index == 0:
                boxes = [Box(20 + 30 * i, 30, 40, 30) for i in range(3)]
                one.prompt(frame, [Region(box=box, object_id=i + 1) for i, box in enumerate(boxes)])
        for a, b in zip(exact.track(frame), tracker.track(frame), strict=True):
            shared += int(np.count_nonzero(a.mask & b.mask))
            either += int(np.count_nonzero(a.mask | b.mask))
    assert either > 1000, "masks that are empty prove nothing"
    # Pixels whose logit is about 0 change sides; an untrained model has many of them.
    assert shared / either > 0.98


def test_fused_attention_is_in_graphs_of_opset_24_only(brain: Path, half: Path) -> None:
    counts = {}
    for folder in (brain, half):
        for graph in GRAPHS:
            model = onnx.load(folder / f"{graph}.onnx")
            assert {operators.domain for operators in model.opset_import} <= {"", "ai.onnx"}
            operators = Counter(node.op_type for node in model.graph.node)
            counts[folder, graph] = operators["Attention"], operators["Softmax"]
    # Five blocks of the encoder, two layers of two, and the decoder's two layers of three and a last one.
    assert [counts[brain, graph] for graph in GRAPHS] == [(5, 0), (4, 0), (7, 0), (0, 0)]
    assert [counts[half, graph] for graph in GRAPHS] == [(0, 5), (0, 4), (0, 7), (0, 0)]


def test_manifest_tells_source_precision_and_sizes(half: Path, brain: Path) -> None:
    first, second = read_manifest(half), read_manifest(brain)
    assert (first.kind, first.precision, first.opset) == ("sam2", "fp16", 20)
    assert (second.kind, second.precision, second.opset) == ("sam2", "bf16", 24)
    assert first.source["content_hash"] == second.source["content_hash"], "it names the checkpoint"
    assert first.settings["image_size"] == 64
    for name, graph in first.graphs.items():
        verify_graph(half, graph)
        if name != "image_encoder":
            assert graph.profiles["N"].max == first.settings["max_objects"] == 4
    kinds = {spec.dtype for graph in second.graphs.values() for spec in (*graph.inputs, *graph.outputs)}
    assert kinds == {"uint8", "bool", "int32", "float32", "bfloat16"}


def test_nearly_the_same_checkpoint_has_another_hash(checkpoint: Path, half: Path, tmp_path: Path) -> None:
    from pixelrefer_ros.tracking.checkpoint import source_hash

    other = write_tiny_sam2(tmp_path / "other", seed=4)
    assert source_hash(checkpoint) == read_manifest(half).source["content_hash"] != source_hash(other)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"precision": "int8"}, "fp32, fp16, bf16"),
        ({"opset": 18}, "opset is 18"),
        ({"max_objects": 0}, "max_objects is 0"),
        ({"image_size": 100}, "image_size is 100"),
    ],
)
def test_setting_out_of_bounds_is_refused_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, setting: dict, message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        export_tracker(checkpoint, tmp_path / "out", **setting)
    assert not (tmp_path / "out").exists()


def test_folder_without_a_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        export_tracker(tmp_path, tmp_path / "out")
