# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on a GPU: a stand-in for its session copies inputs when they are bound, as CUDA's may."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import onnxruntime
import pytest
import torch

from pixelrefer_ros.errors import BackendError
from pixelrefer_ros.runtime import Graph, OnnxRuntimeSession
from pixelrefer_ros.runtime.manifest import TensorSpec

GPU = torch.device("cuda", 0)
GRAPH = Graph(
    name="sums",
    file="sums.onnx",
    sha256="",
    inputs=(TensorSpec("x", "float32", ("n",)), TensorSpec("total", "float32", ("n",))),
    outputs=(TensorSpec("next_total", "float32", ("n",)), TensorSpec("twice", "float32", ("n",))),
    in_place=(("total", "next_total"),),
)


def floats(shape: tuple[int, ...], address: int) -> ctypes.Array[ctypes.c_float]:
    return (ctypes.c_float * shape[0]).from_address(address)


class CopyingSession:
    """Computes next_total = total + x and twice = 2 x from what x was when it was bound.

    Its nodes read x on the CPU: there `IOBinding` copies an input of a GPU when it is bound.
    """

    providers: ClassVar[tuple[str, ...]] = ("CUDAExecutionProvider", "CPUExecutionProvider")
    calls: ClassVar[list[str]]  # what happened, in order
    refused: ClassVar[str | None] = None

    def __init__(self, *_: object, **__: object) -> None:
        self.given: dict[str, list[float]] = {}
        self.bound: dict[str, ctypes.Array[ctypes.c_float]] = {}

    def get_providers(self) -> list[str]:
        return list(self.providers)

    def io_binding(self) -> CopyingSession:
        return self

    def bind_input(self, name: str, kind: str, _: int, __: int, shape: tuple[int, ...], address: int) -> None:
        self.calls.append(f"bind {name} on {kind}")
        if name == self.refused:
            raise RuntimeError(f"There's no data transfer registered for {name}\nand a second line")
        self.given[name] = list(floats(shape, address))
        self.bound[name] = floats(shape, address)

    def bind_output(self, name: str, _: str, __: int, ___: int, shape: tuple[int, ...], address: int) -> None:
        self.bound[name] = floats(shape, address)

    def run_with_iobinding(self, _: object) -> None:
        self.calls.append("run")
        x = self.given["x"]
        self.bound["next_total"][:] = [one + more for one, more in zip(self.bound["total"], x, strict=True)]
        self.bound["twice"][:] = [2 * one for one in x]


@pytest.fixture
def session_type(monkeypatch: pytest.MonkeyPatch) -> type[CopyingSession]:
    """The stand-in, in ONNX Runtime's place; the "GPU" is the host's memory."""

    class Session(CopyingSession):
        calls: ClassVar[list[str]] = []

    empty = torch.empty
    waits = SimpleNamespace(synchronize=lambda: Session.calls.append("wait"))
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: waits)
    monkeypatch.setattr(torch, "empty", lambda shape, *, dtype, device: empty(shape, dtype=dtype))
    return Session


def opened(device: torch.device = GPU) -> OnnxRuntimeSession:
    return OnnxRuntimeSession(Path("sums.onnx"), GRAPH, device=device, threads=1)


def test_new_contents_at_an_address_of_before_are_what_a_gpu_computes_with(
    session_type: type[CopyingSession],
) -> None:
    session, x, total = opened(), torch.ones(2), torch.zeros(2)
    for value in (1.0, 5.0):
        x.fill_(value)
        results = session.run({"x": x, "total": total})
        assert results["twice"].tolist() == [2 * value] * 2
    assert results["next_total"] is total and total.tolist() == [6.0, 6.0]


def test_a_gpus_inputs_are_bound_after_the_work_that_writes_them(session_type: type[CopyingSession]) -> None:
    opened().run({"x": torch.ones(2), "total": torch.zeros(2)})
    assert session_type.calls == ["wait", "bind x on cuda", "bind total on cuda", "run"]


def test_on_a_cpu_what_is_bound_stays_bound(session_type: type[CopyingSession]) -> None:
    session, x, total = opened(torch.device("cpu")), torch.ones(2), torch.zeros(2)
    for _ in range(2):
        session.run({"x": x, "total": total})
    assert session_type.calls == ["bind x on cpu", "bind total on cpu", "run", "run"]


def test_an_input_that_cannot_be_bound_is_a_domain_error(session_type: type[CopyingSession]) -> None:
    session_type.refused = "x"
    with pytest.raises(BackendError, match=r"graph sums failed .*: There's no data .* for x$"):
        opened().run({"x": torch.ones(2), "total": torch.zeros(2)})


def test_a_graph_that_only_the_cpu_would_run_is_not_opened_for_a_gpu(
    session_type: type[CopyingSession],
) -> None:
    """Where CUDA's libraries do not load, ONNX Runtime leaves its provider out and goes on."""
    session_type.providers = ("CPUExecutionProvider",)
    with pytest.raises(BackendError, match=r"sums\.onnx would run on the CPU, and device is 'cuda:0'.*cuDNN"):
        opened()
    opened(torch.device("cpu"))
