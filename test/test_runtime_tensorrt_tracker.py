# SPDX-License-Identifier: Apache-2.0
"""SAM 2 on TensorRT engines follows as on ONNX Runtime; ``tensorrt`` is the fake that computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from exported_models import exported_tiny_tracker
from fake_tensorrt import FakeTensorRT, HostStream
from pixelrefer_ros.engines import Asked, build_engines
from tracker_feeds import GRAPHS
from tracking_scene import HEIGHT, WIDTH, moving_frames

from pixelrefer_ros.runtime import Backend, OnnxRuntimeBackend
from pixelrefer_ros.runtime.tensorrt_backend import TensorRtBackend
from pixelrefer_ros.runtime.tensorrt_plans import Gpu
from pixelrefer_ros.tracking import StateRules, StreamTracker
from pixelrefer_ros.tracking.graphs import GraphSam2
from pixelrefer_ros.types import Box, Region

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(600)  # exports, on a busy machine
GPU = Gpu("NVIDIA GeForce RTX 4090", (8, 9), 24.0)
PROFILE = """
gpu_names: ["*"]
compute_capabilities: ["8.9"]
min_memory_gb: 0
precisions: [fp32]
patch_budget: 1024
objects: 4
context_length: 64
workspace_mb: 32
"""
# The same library computes both, but the builder splits heads of attention, whose sums are then taken in
# another order; that can flip the last bit of a memory, as between torch and ONNX Runtime. Logits are a
# few units.
LOGIT_TOLERANCE = 1e-3


def tracker(folder: Path, backend: Backend) -> StreamTracker:
    """Everything is reported, so that masks can be compared whatever the untrained weights say."""
    rules = StateRules(
        min_area_px=0, max_area_fraction=1.0, smallest_part=0.0, apart=False, remembers_absence=True
    )
    return StreamTracker(GraphSam2(folder, backend, device=torch.device("cpu")), states=rules)


def prompts() -> list[Region]:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[30:70, 40:90] = True
    points = np.array([[60, 50], [44, 60], [100, 20.5]], np.float32)
    return [
        Region(box=Box(30, 30, 40, 30), object_id=1),
        Region(points=points, point_labels=np.array([1, 1, 0], np.int32), object_id=2),
        Region(mask=mask, object_id=3),
    ]


def test_masks_followed_on_engines_are_those_of_onnx_runtime(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    _, folder = exported_tiny_tracker(tmp_path_factory)
    (tmp_path / "any.yaml").write_text(PROFILE)
    trt = FakeTensorRT()
    built = build_engines(folder, trt, GPU, Asked(str(tmp_path / "any.yaml"), tmp_path), say=lambda _: None)
    assert built == list(GRAPHS)

    backend = TensorRtBackend(tmp_path, trt=trt, gpu=GPU, stream=HostStream(trt))
    mine, theirs = tracker(folder, backend), tracker(folder, OnnxRuntimeBackend(threads=1))
    largest, compared = 0.0, 0
    for index, frame in enumerate(moving_frames(6)):
        for one in (mine, theirs):
            if index == 0:
                one.prompt(frame, prompts())
        for found, expected in zip(mine.track(frame), theirs.track(frame), strict=True):
            logits = [one._session.followed(found.object_id).logits for one in (mine, theirs)]
            largest = max(largest, float((logits[0] - logits[1]).abs().max()))
            shown = torch.nn.functional.interpolate(
                logits[1][None, None], size=expected.mask.shape, mode="bilinear"
            )
            sure = shown[0, 0].abs().numpy() > LOGIT_TOLERANCE
            assert np.array_equal(found.mask[sure], expected.mask[sure])
            assert (found.object_id, found.state) == (expected.object_id, expected.state)
            compared += int(np.count_nonzero(expected.mask))
    assert largest < LOGIT_TOLERANCE
    assert compared > 1000, "masks that are empty prove nothing"
    assert {call[0] for call in trt.calls} >= {"execute"} and "replay" not in {call[0] for call in trt.calls}
