# SPDX-License-Identifier: Apache-2.0
"""A small exported folder, the profile that takes it, and its build by a fake ``tensorrt``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import engine_graphs
from fake_tensorrt import FakeTensorRT, HostStream
from pixelrefer_ros.engines import Asked, build_engines

from pixelrefer_ros.runtime import Session, read_manifest
from pixelrefer_ros.runtime.manifest import Profile
from pixelrefer_ros.runtime.tensorrt_backend import TensorRtBackend
from pixelrefer_ros.runtime.tensorrt_plans import Gpu

GPU = Gpu("NVIDIA GeForce RTX 4090", (8, 9), 24.0)
PROFILES = {"batch": Profile(1, 1, 3), "sequence": Profile(1, 8, 16), "rows": Profile(1, 2, 4)}
ANY_PRECISION = """
gpu_names: ["*"]
compute_capabilities: ["8.9"]
min_memory_gb: 0
precisions: [fp16, fp32]
patch_budget: 1024
objects: 2
context_length: 64
workspace_mb: 32
"""


def write_model(folder: Path) -> Path:
    """Write an exported folder of two graphs, and beside it the profile ``any.yaml``, which takes it."""
    models = {"decoder": engine_graphs.decoder(), "vision": engine_graphs.projection()}
    engine_graphs.write_folder(
        folder / "model", models, profiles=PROFILES, in_place=engine_graphs.caches(), external_data=True
    )
    (folder / "any.yaml").write_text(ANY_PRECISION)
    return folder / "model"


def ask(folder: Path) -> Asked:
    """The profile that `write_model` left in this folder is asked for."""
    return Asked(profile=str(folder / "any.yaml"))


def build(
    folder: Path, trt: FakeTensorRT, asked: Asked, gpu: Gpu = GPU, **options: Any
) -> tuple[list[str], list[str]]:
    """The names of the graphs that were built, and the lines that were said."""
    lines: list[str] = []
    built = build_engines(folder, trt, gpu, asked, say=lines.append, **options)
    return built, lines


def calls(trt: FakeTensorRT, name: str) -> list[tuple[Any, ...]]:
    """Everything that was asked of the fake under this name, in order."""
    return [call for call in trt.calls if call[0] == name]


def open_vision(folder: Path, trt: FakeTensorRT, gpu: Gpu = GPU) -> Session:
    """The vision encoder's engine, as the backend opens it on this GPU."""
    graph = read_manifest(folder).graphs["vision"]
    return TensorRtBackend(trt=trt, gpu=gpu, stream=HostStream(trt)).open(folder, graph)
