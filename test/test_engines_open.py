# SPDX-License-Identifier: Apache-2.0
"""Which engines the backend opens, and which it refuses, with a fake ``tensorrt``."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from engine_builds import ask, build, calls, open_vision, write_model
from fake_tensorrt import FakeTensorRT

from pixelrefer_ros.errors import BackendError
from pixelrefer_ros.runtime.tensorrt_messages import logger_of
from pixelrefer_ros.runtime.tensorrt_plans import Gpu, read_record


@pytest.fixture
def trt():
    return FakeTensorRT()


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path)


@pytest.fixture
def asked(tmp_path):
    return ask(tmp_path)


def test_a_folder_without_engines_says_how_to_build_them(folder, trt):
    with pytest.raises(
        BackendError, match="no engine of graph vision: build it with `pixelrefer build-engines"
    ):
        open_vision(folder, trt)


def test_an_engine_for_something_else_is_never_deserialised(folder, trt, asked):
    build(folder, trt, asked)
    other = Gpu("NVIDIA GeForce RTX 5090", (12, 0), 32.0)
    with pytest.raises(
        BackendError, match=r"gpu was 'NVIDIA GeForce RTX 4090'.*compute capability was '8\.9'"
    ):
        open_vision(folder, trt, other)
    newer = FakeTensorRT("11.4.1")
    with pytest.raises(BackendError, match=r"and is 'tensorrt 11\.4\.1'"):
        open_vision(folder, newer)
    assert calls(trt, "deserialize") == calls(newer, "deserialize") == []


@pytest.mark.parametrize("damage", [b"", b"somebody else's code"])
def test_a_plan_whose_hash_is_not_in_its_record_is_never_deserialised(folder, trt, asked, damage):
    build(folder, trt, asked)
    record = read_record(folder / "engines", "vision")
    (folder / "engines" / record.file).write_bytes(damage)
    with pytest.raises(BackendError, match="is not the plan that was built"):
        open_vision(folder, trt)
    assert calls(trt, "deserialize") == []


def test_what_tensorrt_warns_of_while_it_opens_an_engine_is_logged(folder, trt, asked, caplog):
    build(folder, trt, asked)
    trt.run_warnings = ["Using an engine plan file across different models of devices is not recommended"]
    open_vision(folder, trt)
    assert f"TensorRT: {trt.run_warnings[0]}" in caplog.messages


def test_an_engine_that_tensorrt_refuses_says_so(folder, trt, asked):
    build(folder, trt, asked)
    trt.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: None)
    said = r"refuses the engine.*If GPU memory is short, free some; if not, build it with .*--again"
    with pytest.raises(BackendError, match=said):
        open_vision(folder, trt)


def test_an_engine_has_the_memory_that_torch_keeps_for_later(folder, trt, asked, monkeypatch):
    build(folder, trt, asked)
    real, kept = trt.Runtime(logger_of(trt)), [1]

    def deserialize(plan):
        return None if kept else real.deserialize_cuda_engine(plan)

    trt.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=deserialize)
    monkeypatch.setattr(torch.cuda, "empty_cache", kept.clear)
    open_vision(folder, trt)
