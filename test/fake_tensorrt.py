# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the module ``tensorrt``, which cannot be installed everywhere and needs a GPU.

It keeps TensorRT's rules (what must be set before a run, which sizes a profile allows, which addresses must
be the same) and journals the calls. Its "plan" is the ONNX graph, and a run computes it with ONNX Runtime in
the memory whose addresses were given: so results can be compared, not only calls.

Run as a script, this file installs the stand-in and runs a module of the package with it.
"""

from __future__ import annotations

import argparse
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from fake_tensorrt_builder import AttentionLayer, Builder, Network, Parser
from fake_tensorrt_engine import Runtime
from fake_tensorrt_values import (
    ExecutionContextAllocationStrategy,
    ILogger,
    IProgressMonitor,
    Severity,
    TensorIOMode,
    TensorLocation,
    warn,
)


class FakeTensorRT(ModuleType):
    """The module.

    Args:
        version: it calls itself by; before 10.15 it reads opset 20 only and has no aliased tensors.

    Attributes:
        calls: what was called, in order, with what matters.
        builder_warnings: said while a builder is made.
        parser_warnings: said while a graph is read.
        build_warnings: said while an engine is built.
        run_warnings: said while an engine is deserialised and at each run.
        no_builder: there is none, as where only the parts that run engines are installed.
        unfused: said when a build fails because attention is not taken apart; None: it is fused.
        build_error: said when a build is to fail; None: it does not.
        run_error: said when runs are to fail.
        unrecordable: runs fail while they are recorded.
        room: whether there is memory for runs of an optimisation profile.
        on_step: called at each step of a build.
    """

    def __init__(self, version: str = "10.15.1.29") -> None:
        super().__init__("tensorrt")
        self.__version__ = version
        self.calls: list[tuple[Any, ...]] = []
        self.builder_warnings: list[str] = []
        self.parser_warnings: list[str] = []
        self.build_warnings: list[str] = []
        self.run_warnings: list[str] = []
        self.no_builder = False
        self.unfused: str | None = None
        self.build_error: str | None = None
        self.run_error: str | None = None
        self.unrecordable = False
        self.room: Callable[[int], bool] = lambda _: True
        self.on_step: Callable[[], None] = lambda: None
        self.recording: list[Callable[[], None]] | None = None
        self.ILogger, self.IProgressMonitor = ILogger, IProgressMonitor
        self.TensorIOMode, self.TensorLocation = TensorIOMode, TensorLocation
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        self.ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="WORKSPACE")
        self.BuilderFlag = SimpleNamespace(TF32="TF32")
        self.IAttentionOutputLayer = AttentionLayer

    @property
    def fused(self) -> bool:
        """Whether this version has the operators of opset 24."""
        return tuple(int(part) for part in self.__version__.split(".")[:2]) >= (10, 15)

    def Builder(self, logger: Any) -> Builder:  # noqa: N802
        warn(logger, self.builder_warnings)
        if self.no_builder:
            logger.log(Severity.ERROR, "libnvinfer_builder_resource is missing")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return Builder(self, logger)

    def OnnxParser(self, network: Network, logger: Any) -> Parser:  # noqa: N802
        return Parser(self, network, logger)

    def Runtime(self, logger: Any) -> Runtime:  # noqa: N802
        return Runtime(self, logger)


class HostStream:
    """A `DeviceStream` on the CPU, where the fake runs."""

    def __init__(self, trt: FakeTensorRT) -> None:
        self.device, self.alignment, self.handle = torch.device("cpu"), 64, 77
        self._trt = trt
        self._lock = threading.Lock()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._lock:
            yield

    @contextmanager
    def queue(self) -> Iterator[None]:
        self._trt.calls.append(("queue",))
        yield
        self._trt.calls.append(("joined",))

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self._trt.calls.append(("capture",))
        recorded = self._trt.recording = []
        try:
            work()
        finally:
            self._trt.recording = None

        def replay() -> None:
            self._trt.calls.append(("replay",))
            for run in recorded:
                run()

        return replay


def main() -> None:
    """Run a module as ``python -m`` would, with the stand-in and, if asked for, a GPU."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gpu", help="name of the GPU; without it there is none")
    parser.add_argument("--step-s", type=float, default=0.0, help="how long each step of a build takes")
    parser.add_argument("module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    sys.argv[1:] = options.arguments

    from pixelrefer_ros.runtime import tensorrt_machine
    from pixelrefer_ros.runtime.tensorrt_plans import Gpu

    # Where the parent was started in the background, SIGINT is ignored, and children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    trt = FakeTensorRT()
    trt.on_step = lambda: time.sleep(options.step_s)
    sys.modules["tensorrt"] = trt
    if options.gpu is not None:
        tensorrt_machine.current_gpu = lambda *_: Gpu(options.gpu, (8, 9), 24.0)
    runpy.run_module(options.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
