# SPDX-License-Identifier: Apache-2.0
"""What the stand-in for ``tensorrt`` runs engines with."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import onnx
import onnxruntime
from fake_tensorrt_values import (
    MAGIC,
    ExecutionContextAllocationStrategy,
    Severity,
    TensorIOMode,
    TensorLocation,
    tensor_of,
    warn,
)

if TYPE_CHECKING:
    from fake_tensorrt import FakeTensorRT


class Runtime:
    def __init__(self, trt: FakeTensorRT, logger: Any) -> None:
        self._trt, self._logger = trt, logger

    def deserialize_cuda_engine(self, plan: memoryview) -> Engine | None:
        self._trt.calls.append(("deserialize",))
        warn(self._logger, self._trt.run_warnings)
        content = json.loads(bytes(plan).removeprefix(MAGIC))
        version, model = content["version"], base64.b64decode(content["model"])
        if version != self._trt.__version__:
            self._logger.log(Severity.ERROR, f"the plan is of version {version}")
            return None
        return Engine(self._trt, self._logger, onnx.load_from_string(model), content["profiles"])


class Engine:
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
        return tensor_of({**self.inputs, **self.outputs}[name]).dtype

    def get_tensor_location(self, name: str) -> TensorLocation:
        return self.locations.get(name, TensorLocation.DEVICE)

    def _aliased_input(self, name: str) -> str | None:
        for node in self.graph.node:
            if node.op_type == "TensorScatter" and node.output[0] == name and node.input[0] in self.inputs:
                return str(node.input[0])
        return None

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> Context | None:
        self.trt.calls.append(("context", strategy.name))
        of_all = strategy is ExecutionContextAllocationStrategy.STATIC
        return Context(self) if self.allocated(*range(len(self.profiles) if of_all else 1)) else None

    def allocated(self, *profiles: int) -> bool:
        if all(self.trt.room(profile) for profile in profiles):
            return True
        self.logger.log(Severity.ERROR, "Requested amount of GPU memory could not be allocated")
        return False


class Context:
    def __init__(self, engine: Engine) -> None:
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
            return tuple(shape) == tensor_of(self._engine.inputs[name]).shape
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
        warn(self._engine.logger, trt.run_warnings)
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
