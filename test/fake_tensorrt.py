# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the module ``tensorrt``, which cannot be installed everywhere and needs a GPU.

It keeps TensorRT's rules (what must be set before a run, which sizes a profile allows, which addresses must
be the same) and journals the calls. Its "plan" is the ONNX graph, and a run computes it with ONNX Runtime in
the memory whose addresses were given: so results can be compared, not only calls.

Run as a script, this file installs the stand-in and runs a module of the package with it.
"""

from __future__ import annotations

import argparse
import base64
import json
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import onnxruntime
import torch

MAGIC = b"not a TensorRT plan "
_ELEMENTS = {
    onnx.TensorProto.FLOAT: "FLOAT",
    onnx.TensorProto.FLOAT16: "HALF",
    onnx.TensorProto.BFLOAT16: "BF16",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.BOOL: "BOOL",
}
_LAYERS = {"TensorScatter": "KV_CACHE_UPDATE", "Attention": "ATTENTION_OUTPUT"}


class Severity(IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity


class IProgressMonitor:
    pass


class TensorIOMode(Enum):
    INPUT, OUTPUT = 1, 2


class TensorLocation(Enum):
    DEVICE, HOST = 0, 1


class ExecutionContextAllocationStrategy(Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


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
        self.IAttentionOutputLayer = _AttentionLayer

    @property
    def fused(self) -> bool:
        """Whether this version has the operators of opset 24."""
        return tuple(int(part) for part in self.__version__.split(".")[:2]) >= (10, 15)

    def Builder(self, logger: Any) -> _Builder:  # noqa: N802
        _warn(logger, self.builder_warnings)
        if self.no_builder:
            logger.log(Severity.ERROR, "libnvinfer_builder_resource is missing")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return _Builder(self, logger)

    def OnnxParser(self, network: _Network, logger: Any) -> _Parser:  # noqa: N802
        return _Parser(self, network, logger)

    def Runtime(self, logger: Any) -> _Runtime:  # noqa: N802
        return _Runtime(self, logger)


def _warn(logger: Any, texts: list[str]) -> None:
    for text in texts:
        logger.log(Severity.WARNING, text)


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


class _Layer:
    def __init__(self, kind: str) -> None:
        self.type = SimpleNamespace(name=kind)


class _AttentionLayer(_Layer):
    @property
    def attention(self) -> Any:
        return self.__dict__.setdefault("kept", SimpleNamespace(decomposable=False))


class _Network:
    def __init__(self) -> None:
        self.model: onnx.ModelProto | None = None
        self.layers: list[_Layer] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    num_layers = property(lambda self: len(self.layers))
    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))

    def get_layer(self, index: int) -> _Layer:
        layer = self.layers[index]
        if type(layer) is _AttentionLayer and "kept" not in layer.__dict__:
            layer.__class__ = _Layer  # as the real bindings do
        return layer

    def get_input(self, index: int) -> Any:
        return self.inputs[index]

    def get_output(self, index: int) -> Any:
        return self.outputs[index]


class _Parser:
    def __init__(self, trt: FakeTensorRT, network: _Network, logger: Any) -> None:
        self._trt, self._network, self._logger = trt, network, logger
        self._errors: list[str] = []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> Any:
        text = self._errors[index]
        return SimpleNamespace(desc=lambda: text, node_name=lambda: "node", node_operator=lambda: "Op")

    def parse(self, content: bytes, path: str) -> bool:
        model = onnx.load_from_string(content)
        onnx.load_external_data_for_model(model, str(path).rsplit("/", 1)[0])
        opset = max(one.version for one in model.opset_import)
        self._trt.calls.append(("parse", opset))
        _warn(self._logger, self._trt.parser_warnings)
        if opset > 20 and not self._trt.fused:
            self._errors.append(f"opset {opset} is not supported")
            return False
        self._network.model = model
        self._network.layers = [_Layer(_LAYERS.get(node.op_type, "OTHER")) for node in model.graph.node]
        self._network.inputs = [_tensor(value) for value in model.graph.input]
        self._network.outputs = [_tensor(value) for value in model.graph.output]
        return True


def _tensor(value: onnx.ValueInfoProto) -> Any:
    kind = value.type.tensor_type
    shape = tuple(-1 if size.dim_param else size.dim_value for size in kind.shape.dim)
    return SimpleNamespace(
        name=value.name, dtype=SimpleNamespace(name=_ELEMENTS[kind.elem_type]), shape=shape
    )


class _Config:
    def __init__(self, trt: FakeTensorRT) -> None:
        self._trt = trt
        self.profiles: list[dict[str, Any]] = []
        self.progress_monitor: Any = None
        self._cache: _TimingCache | None = None

    def clear_flag(self, flag: str) -> None:
        self._trt.calls.append(("cleared", flag))

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self._trt.calls.append(("workspace", size))

    def add_optimization_profile(self, profile: _OptimizationProfile) -> int:
        self.profiles.append(profile.shapes)
        return len(self.profiles) - 1

    def create_timing_cache(self, content: bytes) -> _TimingCache:
        return _TimingCache(content)

    def set_timing_cache(self, cache: _TimingCache, ignore_mismatch: bool) -> bool:
        good = not cache.content or cache.content.startswith(b"timings of " + self._trt.__version__.encode())
        self._trt.calls.append(("timings", cache.content, good))
        self._cache = cache if good else self._cache
        return good

    def get_timing_cache(self) -> _TimingCache | None:
        return self._cache


class _TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class _OptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, least: Any, usual: Any, most: Any) -> None:
        self.shapes[name] = (tuple(least), tuple(usual), tuple(most))


class _Builder:
    def __init__(self, trt: FakeTensorRT, logger: Any) -> None:
        self._trt, self._logger = trt, logger

    def create_network(self, flags: int) -> _Network:
        flag = getattr(self._trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        assert flags == (0 if flag is None else 1 << flag)
        return _Network()

    def create_builder_config(self) -> _Config:
        return _Config(self._trt)

    def create_optimization_profile(self) -> _OptimizationProfile:
        return _OptimizationProfile()

    def build_serialized_network(self, network: _Network, config: _Config) -> memoryview | None:
        assert network.model is not None
        self._trt.calls.append(("build", [dict(profile) for profile in config.profiles]))
        monitor = config.progress_monitor
        if monitor is not None:
            monitor.phase_start("Building", None, 2)
        for step in range(2):
            self._trt.on_step()
            if monitor is not None and not monitor.step_complete("Building", step):
                return None
        if monitor is not None:
            monitor.phase_finish("Building")
        whole = [layer for layer in network.layers if layer.type.name == "ATTENTION_OUTPUT"]
        whole = [layer for layer in whole if "kept" not in layer.__dict__ or not layer.kept.decomposable]
        _warn(self._logger, self._trt.build_warnings)
        error = self._trt.unfused if whole else None
        if error or self._trt.build_error:
            self._logger.log(Severity.ERROR, error or self._trt.build_error)
            return None
        if config._cache is not None:
            config._cache.content = b"timings of " + self._trt.__version__.encode()
        model = base64.b64encode(network.model.SerializeToString()).decode()
        content = {"version": self._trt.__version__, "model": model, "profiles": config.profiles}
        return memoryview(MAGIC + json.dumps(content).encode())  # as the real one: a buffer, no bytes


class _Runtime:
    def __init__(self, trt: FakeTensorRT, logger: Any) -> None:
        self._trt, self._logger = trt, logger

    def deserialize_cuda_engine(self, plan: memoryview) -> _Engine | None:
        self._trt.calls.append(("deserialize",))
        _warn(self._logger, self._trt.run_warnings)
        content = json.loads(bytes(plan).removeprefix(MAGIC))
        version, model = content["version"], base64.b64decode(content["model"])
        if version != self._trt.__version__:
            self._logger.log(Severity.ERROR, f"the plan is of version {version}")
            return None
        return _Engine(self._trt, self._logger, onnx.load_from_string(model), content["profiles"])


class _Engine:
    def __init__(self, trt: FakeTensorRT, logger: Any, model: onnx.ModelProto, profiles: list[Any]) -> None:
        self.trt, self.logger, self.profiles, self.graph = trt, logger, profiles, model.graph
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        self.inputs = {value.name: value for value in self.graph.input}
        self.outputs = {value.name: value for value in self.graph.output}
        self.locations: dict[str, TensorLocation] = {}
        if trt.fused:
            self.get_aliased_input_tensor = self._aliased_input

    num_io_tensors = property(lambda self: len(self.inputs) + len(self.outputs))

    def get_tensor_name(self, index: int) -> str:
        return [*self.inputs, *self.outputs][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return _tensor({**self.inputs, **self.outputs}[name]).dtype

    def get_tensor_location(self, name: str) -> TensorLocation:
        return self.locations.get(name, TensorLocation.DEVICE)

    def _aliased_input(self, name: str) -> str | None:
        for node in self.graph.node:
            if node.op_type == "TensorScatter" and node.output[0] == name and node.input[0] in self.inputs:
                return str(node.input[0])
        return None

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> _Context | None:
        self.trt.calls.append(("context", strategy.name))
        of_all = strategy is ExecutionContextAllocationStrategy.STATIC
        return _Context(self) if self.allocated(*range(len(self.profiles) if of_all else 1)) else None

    def allocated(self, *profiles: int) -> bool:
        if all(self.trt.room(profile) for profile in profiles):
            return True
        self.logger.log(Severity.ERROR, "Requested amount of GPU memory could not be allocated")
        return False


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self._engine, self._profile = engine, 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self._engine.trt.calls.append(("profile", index))
        self._profile = index
        if index >= len(self._engine.profiles) or not self._engine.allocated(index):
            raise RuntimeError("Error in set optimization profile async.")
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        allowed = self._engine.profiles[self._profile].get(name)
        self._shapes[name] = tuple(shape)
        if allowed is None:
            return tuple(shape) == _tensor(self._engine.inputs[name]).shape
        least, _, most = allowed
        return all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        sizes = {
            size.dim_param: given
            for value in self._engine.inputs.values()
            for size, given in zip(value.type.tensor_type.shape.dim, self._shapes[value.name], strict=True)
        }
        shape = {**self._engine.inputs, **self._engine.outputs}[name].type.tensor_type.shape
        return tuple(
            sizes.get(size.dim_param, -1) if size.dim_param else size.dim_value for size in shape.dim
        )

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        trt = self._engine.trt
        shapes = {name: self.get_tensor_shape(name) for name in (*self._engine.inputs, *self._engine.outputs)}
        assert all(self._addresses.get(name) for name in shapes), "an address is missing or null"
        for name in self._engine.outputs if trt.fused else ():
            source = self._engine._aliased_input(name)
            assert source is None or self._addresses[name] == self._addresses[source], "aliased, but apart"
        inputs = {self._addresses[name] for name in self._engine.inputs}
        if not trt.fused:
            assert inputs.isdisjoint(self._addresses[name] for name in self._engine.outputs), "overwritten"
        bound = dict(self._addresses)
        if trt.recording is not None:
            if trt.unrecordable:
                return False
            trt.recording.append(lambda: self._compute(shapes, bound))
            return True
        trt.calls.append(("execute", stream, self._profile))
        _warn(self._engine.logger, trt.run_warnings)
        if trt.run_error is not None:
            self._engine.logger.log(Severity.ERROR, trt.run_error)
            return False
        self._compute(shapes, bound)
        return True

    def _compute(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        binding = self._engine.session.io_binding()
        for name, value in self._engine.inputs.items():
            element = value.type.tensor_type.elem_type
            binding.bind_input(name, "cpu", 0, element, shapes[name], addresses[name])
        for name, value in self._engine.outputs.items():
            element = value.type.tensor_type.elem_type
            binding.bind_output(name, "cpu", 0, element, shapes[name], addresses[name])
        self._engine.session.run_with_iobinding(binding)


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
