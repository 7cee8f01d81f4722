# SPDX-License-Identifier: Apache-2.0
"""Engines are built for, checked against and run on the GPU that is named; torch pretends to have two."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import engine_graphs
import pytest
import torch
from fake_tensorrt import FakeTensorRT, HostStream
from pixelrefer_ros.engines import Asked, build_engines

from pixelrefer_ros import cli
from pixelrefer_ros.errors import BackendError, PixelReferError
from pixelrefer_ros.model_source import build_missing_engines, build_named_engines
from pixelrefer_ros.parameters import check_parameters
from pixelrefer_ros.runtime import choose_backend, read_manifest, tensorrt_backend
from pixelrefer_ros.runtime.device_stream import CudaStream
from pixelrefer_ros.runtime.manifest import Profile
from pixelrefer_ros.runtime.tensorrt_backend import TensorRtBackend, why_not_tensorrt
from pixelrefer_ros.runtime.tensorrt_machine import current_gpu, gpu_device
from pixelrefer_ros.runtime.tensorrt_plans import Gpu, read_record

NAMES = ("NVIDIA GeForce RTX 3060", "NVIDIA GeForce RTX 4090")
SECOND = torch.device("cuda", 1)


@pytest.fixture
def torch_gpus(monkeypatch):
    """Torch as it is with both GPUs; ``current`` is the index of the current one."""
    state = SimpleNamespace(current=0)

    @contextmanager
    def switched(device):
        before = state.current
        state.current = device if isinstance(device, int) else device.index
        try:
            yield
        finally:
            state.current = before

    def properties(device):
        return SimpleNamespace(
            name=NAMES[device.index], major=8, minor=(6, 9)[device.index], total_memory=24e9
        )

    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: len(NAMES),
        "current_device": lambda: state.current,
        "get_device_properties": properties,
        "device": switched,
        "Stream": lambda device: SimpleNamespace(cuda_stream=77),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return state


@pytest.fixture
def trt(torch_gpus, monkeypatch):
    """The fake, whose ``places`` are the calls and the GPU that was current at each."""
    fake = FakeTensorRT()
    fake.places = []

    class Journal(list):
        def append(self, call):
            super().append(call)
            fake.places.append((call[0], torch_gpus.current))

    fake.calls = Journal()

    class Stream(HostStream):
        """In the host's memory, and otherwise as a CUDA stream of that device."""

        def __init__(self, device):
            super().__init__(fake)
            self.alone = CudaStream(device).alone

    monkeypatch.setattr(tensorrt_backend, "CudaStream", Stream)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    return fake


@pytest.fixture
def folder(tmp_path):
    engine_graphs.write_folder(
        tmp_path,
        {"vision": engine_graphs.projection("fp16")},
        precision="fp16",
        profiles={"rows": Profile(1, 2, 4)},
    )
    return tmp_path


def test_engines_are_built_and_run_on_the_gpu_that_is_named(folder, trt, torch_gpus):
    build_engines(folder, trt, current_gpu(SECOND), Asked(), say=lambda _: None)
    assert read_record(folder / "engines", "vision").key.gpu == NAMES[1]
    session = TensorRtBackend(None, SECOND).open(folder, read_manifest(folder).graphs["vision"])
    session.run({"x": torch.zeros(2, engine_graphs.WIDTH, dtype=torch.float16)})
    assert {"parse", "build", "deserialize", "context", "execute"} <= {name for name, _ in trt.places}
    assert {index for _, index in trt.places} == {1} and torch_gpus.current == 0


def test_an_engine_of_the_other_gpu_is_refused_with_the_command_that_builds_for_this_one(folder, trt):
    build_engines(folder, trt, current_gpu("cuda:0"), Asked(), say=lambda _: None)
    assert why_not_tensorrt(folder) == why_not_tensorrt(folder, None, torch.device("cuda:0")) == ""
    refused = why_not_tensorrt(folder, None, SECOND)
    assert f"gpu was {NAMES[0]!r} and is {NAMES[1]!r}" in refused
    assert refused.endswith(f"build it with `pixelrefer build-engines {folder} --device cuda:1`")


def by_command(folder):
    assert cli.main(["build-engines", str(folder), "--device", str(SECOND)]) == 0


def by_node(folder):
    named = {"model": str(folder), "tracker_model": "none", "device": str(SECOND)}
    build_named_engines(check_parameters(named), say=lambda _: None, stopped=lambda: False)


def before_loading(folder, *, stopped=lambda: False, **parameters):
    """What the node builds before it loads its models, and the lines it says."""
    lines: list[str] = []
    named = {"model": str(folder), "tracker_model": "none", "device": "cuda:1", **parameters}
    build_missing_engines(check_parameters(named), say=lines.append, stopped=stopped)
    return lines


def built(trt):
    return [name for name, _ in trt.places].count("build")


@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_the_node_builds_engines_that_are_missing_and_then_runs_on_them(folder, trt, backend):
    first, *lines = before_loading(folder, backend=backend)
    assert first.startswith(f"building the TensorRT engines of {folder}, which takes minutes, once")
    assert "vision: building (there is none)" in lines and built(trt) == 1
    assert choose_backend(backend, folder, "cuda:1")[0] == "tensorrt"
    assert before_loading(folder, backend=backend) == [] and built(trt) == 1


def test_engines_that_were_built_with_another_profile_are_used_as_they_are(folder, trt):
    build_engines(folder, trt, current_gpu(SECOND), Asked("orin-nano"), say=lambda _: None)
    assert before_loading(folder) == [] and built(trt) == 1


@pytest.mark.parametrize("damage", [Path.unlink, lambda plan: plan.write_bytes(plan.read_bytes()[:-1])])
def test_a_plan_that_is_missing_or_cut_off_is_built_again_before_loading(folder, trt, damage):
    before_loading(folder)
    damage(folder / "engines" / read_record(folder / "engines", "vision").file)
    assert "vision: built in" in before_loading(folder)[-1] and built(trt) == 2
    TensorRtBackend(None, SECOND).open(folder, read_manifest(folder).graphs["vision"])


def test_a_missing_plan_is_a_reason_not_to_choose_tensorrt(folder, trt):
    before_loading(folder)
    (folder / "engines" / read_record(folder / "engines", "vision").file).unlink()
    assert "is missing: build it with `pixelrefer build-engines" in why_not_tensorrt(folder, None, SECOND)


def test_a_failure_of_tensorrts_own_leaves_the_choice_to_what_else_there_is(folder, trt, monkeypatch):
    monkeypatch.setattr(trt, "OnnxParser", None)
    assert "cannot be built: TypeError: 'NoneType'" in before_loading(folder)[-1]
    with pytest.raises(TypeError):
        before_loading(folder, backend="tensorrt")


@pytest.mark.parametrize(
    "given",
    [{"backend": "onnxruntime"}, {"device": "cpu"}, {"device": "cuda:7"}, {"model": "tiny-random"}],
    ids=str,
)
def test_where_tensorrt_would_not_run_the_model_nothing_is_built(folder, trt, given):
    assert before_loading(folder, **given) == [] and trt.places == []


def test_without_tensorrt_nothing_is_built(folder, trt, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert before_loading(folder) == []


def test_a_build_that_fails_is_told_and_leaves_the_choice_to_what_else_there_is(folder, trt):
    trt.build_error = "insufficient workspace"
    said = before_loading(folder)[-1]
    assert said.startswith(f"the TensorRT engines of {folder} cannot be built: graph vision: TensorRT cannot")
    assert said.endswith(trt.build_error)
    with pytest.raises(
        PixelReferError, match=r"nothing here runs .*CUDAExecutionProvider.*no engine of graph"
    ):
        choose_backend("auto", folder, "cuda:1")
    with pytest.raises(BackendError, match=trt.build_error):
        before_loading(folder, backend="tensorrt")


def test_a_stopped_build_ends_loading(folder, trt):
    with pytest.raises(BackendError, match="the build was stopped"):
        before_loading(folder, stopped=lambda: True)


def test_who_only_chooses_a_backend_builds_nothing(folder, trt):
    with pytest.raises(PixelReferError, match="build it with `pixelrefer build-engines"):
        choose_backend("auto", folder, "cuda:1")
    assert built(trt) == 0


@pytest.mark.parametrize("build", [by_command, by_node])
def test_the_command_and_the_node_build_for_the_gpu_that_is_named(folder, trt, build):
    build(folder)
    assert why_not_tensorrt(folder, None, SECOND) == ""
    assert {index for name, index in trt.places if name == "build"} == {1}


def test_a_device_without_an_index_is_the_current_one(torch_gpus):
    torch_gpus.current = 1
    assert gpu_device() == gpu_device("cuda") == gpu_device(torch.device("cuda")) == SECOND
    assert current_gpu() == Gpu(NAMES[1], (8, 9), 24.0, 1)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cuda:2", "device is 'cuda:2', which torch does not see: give cuda:0 to cuda:1"),
        ("cpu", "device is 'cpu', and TensorRT runs on a GPU: give cuda:0 to cuda:1"),
        ("toaster", "device is 'toaster', which is none: give cuda:0 to cuda:1"),
    ],
)
def test_a_device_that_is_no_gpu_of_the_machine_is_told_which_there_are(torch_gpus, device, said):
    with pytest.raises(BackendError, match=said):
        current_gpu(device)


def test_a_stream_is_one_threads_at_a_time_and_its_device_is_current_then(torch_gpus):
    stream, entered = CudaStream(SECOND), threading.Event()

    def enter():
        with stream.alone():
            entered.set()

    other = threading.Thread(target=enter)
    with stream.alone():
        assert torch_gpus.current == 1
        other.start()
        assert not entered.wait(0.2)
    other.join(10.0)
    assert entered.is_set() and torch_gpus.current == 0
