# SPDX-License-Identifier: Apache-2.0
"""What the stand-in for ``tensorrt`` reads graphs and builds engines with."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import onnx
from fake_tensorrt_values import (
    MAGIC,
    Severity,
    tensor_of,
    warn,
)

if TYPE_CHECKING:
    from fake_tensorrt import FakeTensorRT

_LAYERS = {"TensorScatter": "KV_CACHE_UPDATE", "Attention": "ATTENTION_OUTPUT"}


class Layer:
    def __init__(self, kind: str) -> None:
        self.type = SimpleNamespace(name=kind)


class AttentionLayer(Layer):
    @property
    def attention(self) -> Any:
        return self.__dict__.setdefault("kept", SimpleNamespace(decomposable=False))


class Network:
    def __init__(self) -> None:
        self.model: onnx.ModelProto | None = None
        self.layers: list[Layer] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    num_layers = property(lambda self: len(self.layers))
    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))

    def get_layer(self, index: int) -> Layer:
        layer = self.layers[index]
        if type(layer) is AttentionLayer and "kept" not in layer.__dict__:
            layer.__class__ = Layer  # as the real bindings do
        return layer

    def get_input(self, index: int) -> Any:
        return self.inputs[index]

    def get_output(self, index: int) -> Any:
        return self.outputs[index]


class Parser:
    def __init__(self, trt: FakeTensorRT, network: Network, logger: Any) -> None:
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
        warn(self._logger, self._trt.parser_warnings)
        if opset > 20 and not self._trt.fused:
            self._errors.append(f"opset {opset} is not supported")
            return False
        self._network.model = model
        self._network.layers = [Layer(_LAYERS.get(node.op_type, "OTHER")) for node in model.graph.node]
        self._network.inputs = [tensor_of(value) for value in model.graph.input]
        self._network.outputs = [tensor_of(value) for value in model.graph.output]
        return True


class Config:
    def __init__(self, trt: FakeTensorRT) -> None:
        self._trt = trt
        self.profiles: list[dict[str, Any]] = []
        self.progress_monitor: Any = None
        self._cache: TimingCache | None = None

    def clear_flag(self, flag: str) -> None:
        self._trt.calls.append(("cleared", flag))

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self._trt.calls.append(("workspace", size))

    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        self.profiles.append(profile.shapes)
        return len(self.profiles) - 1

    def create_timing_cache(self, content: bytes) -> TimingCache:
        return TimingCache(content)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        good = not cache.content or cache.content.startswith(b"timings of " + self._trt.__version__.encode())
        self._trt.calls.append(("timings", cache.content, good))
        self._cache = cache if good else self._cache
        return good

    def get_timing_cache(self) -> TimingCache | None:
        return self._cache


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class OptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, least: Any, usual: Any, most: Any) -> None:
        self.shapes[name] = (tuple(least), tuple(usual), tuple(most))


class Builder:
    def __init__(self, trt: FakeTensorRT, logger: Any) -> None:
        self._trt, self._logger = trt, logger

    def create_network(self, flags: int) -> Network:
        flag = getattr(self._trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        assert flags == (0 if flag is None else 1 << flag)
        return Network()

    def create_builder_config(self) -> Config:
        return Config(self._trt)

    def create_optimization_profile(self) -> OptimizationProfile:
        return OptimizationProfile()

    def build_serialized_network(self, network: Network, config: Config) -> memoryview | None:
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
        warn(self._logger, self._trt.build_warnings)
        error = self._trt.unfused if whole else None
        if error or self._trt.build_error:
            self._logger.log(Severity.ERROR, error or self._trt.build_error)
            return None
        if config._cache is not None:
            config._cache.content = b"timings of " + self._trt.__version__.encode()
        model = base64.b64encode(network.model.SerializeToString()).decode()
        content = {"version": self._trt.__version__, "model": model, "profiles": config.profiles}
        return memoryview(MAGIC + json.dumps(content).encode())  # as the real one: a buffer, no bytes
