# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime sessions: memory is bound, not copied; every fault is a domain error with a remedy."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import onnxruntime
import pytest
import torch
from exported_models import exported_tiny, exported_tiny_tracker

from pixelrefer_ros.errors import BackendError, CheckpointError, ParameterError
from pixelrefer_ros.model import PixelReferLite
from pixelrefer_ros.model.compiled import open_network
from pixelrefer_ros.runtime import (
    Graph,
    OnnxRuntimeBackend,
    OnnxRuntimeSession,
    choose_backend,
    open_backend,
    read_manifest,
    tensorrt_backend,
)
from pixelrefer_ros.tracking import StreamTracker

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(600)  # exports, on a busy machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_tiny(tmp_path_factory, opset=20)[1]


@pytest.fixture(scope="module")
def decoder(folder: Path) -> OnnxRuntimeSession:
    return OnnxRuntimeBackend().open(folder, read_manifest(folder).graphs["decoder"])


def feeds(graph: Graph, steps: int, capacity: int = 8) -> dict[str, torch.Tensor]:
    caches = {name: torch.zeros(1, 2, capacity, 32) for name, _ in graph.in_place}
    place = {"start": torch.tensor([1]), "last": torch.tensor([steps - 1])}
    return {"embeddings": torch.ones(1, steps, 128), **place, **caches}


def test_caches_are_updated_where_they_lie(decoder: OnnxRuntimeSession) -> None:
    given = feeds(decoder.graph, 2)
    results = decoder.run(given)
    for name, output in decoder.graph.in_place:
        assert results[output] is given[name]
        written = (given[name] != 0).any(dim=3)[0, 0]
        assert written.tolist() == [False, True, True, False, False, False, False, False]


def test_outputs_stay_when_the_session_runs_again(decoder: OnnxRuntimeSession) -> None:
    first = decoder.run(feeds(decoder.graph, 3))["logits"]
    kept = first.clone()
    other = feeds(decoder.graph, 2) | {"embeddings": torch.randn(1, 2, 128)}
    second = decoder.run(other)["logits"]
    assert torch.equal(first, kept)
    assert not torch.equal(first, second)


def test_feeds_in_other_memory_are_read_from_there(decoder: OnnxRuntimeSession) -> None:
    given = feeds(decoder.graph, 1)
    random = [torch.randn(1, 1, 128) for _ in range(3)]
    fresh = [decoder.run(feeds(decoder.graph, 1) | {"embeddings": one})["logits"] for one in random]
    for one, expected in zip(random, fresh, strict=True):
        for name, _ in decoder.graph.in_place:
            given[name].zero_()
        assert torch.equal(decoder.run(given | {"embeddings": one})["logits"], expected)


def test_threads_may_share_a_session(decoder: OnnxRuntimeSession) -> None:
    inputs = [torch.randn(1, 4, 128) for _ in range(8)]
    alone = [decoder.run(feeds(decoder.graph, 4) | {"embeddings": one})["logits"] for one in inputs]
    found: dict[int, torch.Tensor] = {}

    def run(place: int) -> None:
        given = feeds(decoder.graph, 4) | {"embeddings": inputs[place]}
        found[place] = decoder.run(given)["logits"]

    threads = [threading.Thread(target=run, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[place], alone[place]) for place in range(8))


def test_wrong_feeds_are_refused_before_anything_runs(decoder: OnnxRuntimeSession) -> None:
    with pytest.raises(ValueError, match="must be float32"):
        decoder.run(feeds(decoder.graph, 1) | {"embeddings": torch.ones(1, 1, 128, dtype=torch.float64)})


def test_failure_while_running_is_a_domain_error(decoder: OnnxRuntimeSession) -> None:
    beyond = feeds(decoder.graph, 3) | {"start": torch.tensor([7])}  # positions 7, 8 and 9 of 8
    with pytest.raises(BackendError, match="graph decoder failed"):
        decoder.run(beyond)
    assert decoder.run(feeds(decoder.graph, 1))["logits"].isfinite().all()


def test_closed_session_says_so(folder: Path) -> None:
    session = OnnxRuntimeBackend().open(folder, read_manifest(folder).graphs["embed"])
    session.close()
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.run({"ids": torch.tensor([1]), "objects": torch.zeros(1, 128)})


def test_changed_graph_is_not_opened(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "embed.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(CheckpointError, match=r"embed\.onnx has sha256"):
        open_network(tmp_path / "copy", OnnxRuntimeBackend(), torch.device("cpu"))


def test_file_that_is_no_graph_is_a_domain_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    graph = dataclasses.replace(read_manifest(folder).graphs["embed"], file="x.onnx")
    with pytest.raises(BackendError, match=r"x\.onnx cannot be opened"):
        OnnxRuntimeSession(tmp_path / "x.onnx", graph, device=torch.device("cpu"), threads=1)


def test_device_without_a_provider_and_wrong_threads_are_refused() -> None:
    with pytest.raises(ParameterError, match="CUDAExecutionProvider"):
        OnnxRuntimeBackend("cuda:0")
    with pytest.raises(ParameterError, match="threads is -1"):
        OnnxRuntimeBackend(threads=-1)


def test_auto_runs_an_exported_folder_under_onnx_runtime_and_says_why(folder: Path) -> None:
    chosen, reason = choose_backend("auto", folder)
    assert chosen == "onnxruntime"
    assert "exported" in reason
    assert choose_backend("onnxruntime", folder)[0] == "onnxruntime"
    assert "device is 'cpu'" in choose_backend("auto", folder, "cpu")[1]
    with pytest.raises(ParameterError, match="'tensorrt' cannot run"):
        choose_backend("tensorrt", folder)
    with pytest.raises(ParameterError, match="exported folder; give the checkpoint"):
        choose_backend("torch", folder)


def test_auto_says_that_engines_lie_there_unused_on_the_cpu(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "decoder.engine.json").touch()
    chosen, reason = choose_backend("auto", folder, "cpu", tmp_path)
    assert chosen == "onnxruntime"
    assert "engines are there, but device is 'cpu'" in reason


def test_auto_takes_engines_for_the_gpu_that_is_named_and_opens_them_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(tensorrt_backend, "why_not_tensorrt", lambda *given: asked.append(given) or "")
    monkeypatch.setattr(tensorrt_backend, "TensorRtBackend", lambda *given: asked.append(given))
    chosen, reason = choose_backend("auto", folder, "cuda:1", tmp_path)
    assert (chosen, "has engines for this machine" in reason) == ("tensorrt", True)
    open_backend(chosen, "cuda:1", tmp_path)
    gpu = torch.device("cuda:1")
    assert asked == [(folder, tmp_path, gpu), (tmp_path, gpu)]


def test_without_onnx_runtime_auto_names_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r"pip install onnxruntime.*TensorRT.*device is 'cpu'") as told:
        choose_backend("auto", folder, "cpu")
    assert "give the checkpoint" in str(told.value)
    assert "'torch'" not in str(told.value), "torch runs no exported folder"


def test_checkpoint_is_refused_by_onnx_runtime_with_the_remedy(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    checkpoint, _ = exported_tiny(tmp_path_factory, opset=20)
    with pytest.raises(ParameterError, match="pixelrefer export"):
        PixelReferLite.from_pretrained(checkpoint, backend="onnxruntime")


def test_tables_are_left_to_the_host_on_a_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not OnnxRuntimeBackend("cpu").host_tables
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert OnnxRuntimeBackend("cuda").host_tables


def test_float32_is_multiplied_as_such_on_the_gpu_that_was_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def no_gpu_here(*_: object, providers: Sequence[object]) -> None:
        asked.extend(providers)
        raise RuntimeError("no CUDA-capable device is detected")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", no_gpu_here)
    with pytest.raises(BackendError, match="no CUDA-capable device"):
        OnnxRuntimeBackend("cuda:1").open(folder, read_manifest(folder).graphs["embed"])
    of_gpu = ("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "0"})
    assert asked == [of_gpu, "CPUExecutionProvider"]


def test_bfloat16_is_refused_on_the_cpu_with_the_remedy(folder: Path) -> None:
    graph = read_manifest(folder).graphs["embed"]
    inputs = tuple(dataclasses.replace(spec, dtype="bfloat16") for spec in graph.inputs)
    with pytest.raises(BackendError, match=r"bfloat16.*fp32"):
        OnnxRuntimeBackend().open(folder, dataclasses.replace(graph, inputs=inputs))


def test_bfloat16_tracker_is_refused_on_the_cpu_before_its_pictures_are_encoded(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Its image encoder, which is opened first, takes bytes: bfloat16 is in its outputs alone."""
    _, tracker = exported_tiny_tracker(tmp_path_factory, precision="bf16")
    encoder = read_manifest(tracker).graphs["image_encoder"]
    assert [spec.dtype for spec in encoder.inputs] == ["uint8"]
    with pytest.raises(BackendError, match=r"image_encoder\.onnx is in bfloat16.*export the model as fp32"):
        StreamTracker.from_pretrained(tracker)
