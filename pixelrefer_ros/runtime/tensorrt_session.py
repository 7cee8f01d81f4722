# SPDX-License-Identifier: Apache-2.0
"""A graph as a TensorRT engine, with torch tensors for device memory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch

from pixelrefer_ros.errors import BackendError
from pixelrefer_ros.runtime.device_stream import DeviceStream
from pixelrefer_ros.runtime.manifest import Graph
from pixelrefer_ros.runtime.session import check_feeds, torch_dtype
from pixelrefer_ros.runtime.step_recorder import StepRecorder, Tensors
from pixelrefer_ros.runtime.tensorrt_messages import heard
from pixelrefer_ros.runtime.tensorrt_plans import DTYPE_NAMES
from pixelrefer_ros.runtime.tensorrt_sizes import prompt_sizes, step_sizes

_STEPS = 1
"""The optimisation profile of decoding steps; see `pixelrefer_ros.engines.build_engine`."""


class TensorRtSession:
    """A `pixelrefer_ros.runtime.Session` over the plain ``tensorrt`` API.

    Caches updated in place have one address for input and output where the engine says that it updates them
    so; else (TensorRT before 10.15) the engine writes beside them and the result is copied back. A decoding
    step that comes again with the same sizes and caches is recorded as a CUDA graph, then replayed.

    Sessions on one stream may be called from several threads: one runs at a time.

    Args:
        trt: the module ``tensorrt``.
        engine: deserialised.
        graph: with the sizes of the engine as `Graph.profiles`.
        stream: to run on.

    Raises:
        BackendError: the engine has other inputs or outputs than the graph, or ones that are not on the GPU,
            or there is no memory for its runs.
    """

    def __init__(self, trt: ModuleType, engine: Any, graph: Graph, stream: DeviceStream) -> None:
        self.graph = graph
        self._trt, self._engine, self._stream = trt, engine, stream
        _check_engine(trt, engine, graph)
        self._in_place = {output: name for name, output in graph.in_place}
        aliased = getattr(engine, "get_aliased_input_tensor", lambda _: None)
        self._aliased = {output for output, name in self._in_place.items() if aliased(output) == name}
        self._steps, self._prompts = step_sizes(graph, graph.profiles), prompt_sizes(graph, graph.profiles)
        # Steps first: a new context has prompts' memory, which is the most, until its own profile is set.
        profiles = (0,) if self._steps is None else (_STEPS, 0)
        with stream.alone():
            self._contexts = {profile: self._new_context(profile) for profile in profiles}
        self._recorder = StepRecorder(graph, stream)
        self._nothing = torch.empty(stream.alignment, dtype=torch.uint8, device=stream.device)

    def run(self, feeds: Mapping[str, torch.Tensor]) -> Tensors:
        """Runs the engine; see `pixelrefer_ros.runtime.Session`.

        Raises:
            ValueError: as `check_feeds`; or several entries of the caches and more than one step of each.
            BackendError: the session is closed, or the run fails.
        """
        sizes = check_feeds(self.graph, feeds)
        with self._stream.alone():
            if self._engine is None:
                raise BackendError(f"graph {self.graph.name}: the session is closed")
            return self._run(feeds, sizes)

    def _run(self, feeds: Mapping[str, torch.Tensor], sizes: Mapping[str, int]) -> Tensors:
        given = {name: self._placed(name, tensor) for name, tensor in feeds.items()}
        if not self._is_step(sizes):
            self._check_prompt(sizes)
            outputs = self._buffers(self._contexts[0], given)
            self._bind(self._contexts[0], given, outputs)
            self._execute(self._contexts[0])
            return self._handed_out(outputs, given)
        outputs = self._recorder.run(sizes, given, self._step, self._step_again)
        return self._handed_out(outputs, given)

    def close(self) -> None:
        """Frees contexts, engine and buffers, once no run uses them."""
        with self._stream.alone():
            self._recorder.forget()
            self._engine = None
            self._contexts.clear()

    def _is_step(self, sizes: Mapping[str, int]) -> bool:
        return self._steps is not None and all(
            steps.min <= sizes[symbol] <= steps.max
            for symbol, steps in self._steps.items()
            if symbol in sizes
        )

    def _check_prompt(self, sizes: Mapping[str, int]) -> None:
        """Refuses what neither profile of the engine has: several entries are run for single steps only."""
        over = {symbol for symbol, most in self._prompts.items() if sizes.get(symbol, 0) > most.max}
        if over:
            found = ", ".join(f"{symbol} is {size}" for symbol, size in sorted(sizes.items()))
            raise ValueError(
                f"graph {self.graph.name}: {found}; a run that is no single step must have at most "
                + ", ".join(f"{symbol} {self._prompts[symbol].max}" for symbol in sorted(over))
            )

    def _step(self, given: Tensors) -> Tensors:
        context = self._contexts[_STEPS]
        outputs = self._buffers(context, given)
        self._bind(context, given, outputs)
        self._execute(context)  # TensorRT settles new sizes in this run: only the next one can be recorded
        return outputs

    def _step_again(self, given: Tensors, outputs: Tensors) -> Tensors:
        with heard(self._trt, logging.ERROR) as messages:
            good = self._contexts[_STEPS].execute_async_v3(self._stream.handle)
        if not good:
            reasons = ["TensorRT refuses to run while it is recorded", *messages.errors]
            raise BackendError("; ".join(reasons))
        return {name: tensor for name, tensor in outputs.items() if name not in self._aliased}

    def _handed_out(self, outputs: Tensors, given: Tensors) -> Tensors:
        """The outputs as the caller gets them: a cache is the tensor that was fed."""
        result = dict(outputs)
        for output, name in self._in_place.items():
            if output not in self._aliased:
                given[name].copy_(outputs[output])
            result[output] = given[name]
        return result

    def _placed(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.device != self._stream.device:
            raise ValueError(
                f"graph {self.graph.name}: {name} is on {tensor.device}; it must be on {self._stream.device}"
            )
        if tensor.data_ptr() % self._stream.alignment == 0:
            return tensor
        if name in self._in_place.values():
            raise ValueError(
                f"graph {self.graph.name}: {name} starts at an address that is no multiple of "
                f"{self._stream.alignment} bytes: a cache must not be a part of another tensor"
            )
        return tensor.clone()

    def _new_context(self, profile: int) -> Any:
        """An execution context with memory for the largest run of an optimisation profile.

        Raises:
            BackendError: there is none.
        """
        with heard(self._trt, logging.ERROR) as messages:
            context = self._try_context(profile)
            if context is None:
                torch.cuda.empty_cache()  # what torch keeps for later is memory that TensorRT cannot have
                context = self._try_context(profile)
        if context is None:
            raise BackendError(
                f"graph {self.graph.name}: no execution context for optimisation profile {profile}: "
                + ("; ".join(messages.errors) or "TensorRT gives no reason")
                + ". If GPU memory is short, free some, or build the engines for less with another profile "
                "(build-engines --profile; the node: engine_profile)"
            )
        return context

    def _try_context(self, profile: int) -> Any | None:
        # By itself each context would set memory aside for the largest run of all profiles.
        strategy = self._trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        try:
            context = self._engine.create_execution_context(strategy)
            if context is not None and profile != 0:  # where it begins
                context.set_optimization_profile_async(profile, self._stream.handle)
        except RuntimeError:  # how its Python bindings tell that a profile cannot be set; TensorRT said why
            return None
        return context

    def _buffers(self, context: Any, given: Tensors) -> Tensors:
        """Memory for the outputs, of the shapes that the inputs bring; of aliased caches the inputs'."""
        for name, tensor in given.items():
            if not context.set_input_shape(name, tuple(tensor.shape)):
                raise BackendError(
                    f"graph {self.graph.name}: the engine refuses {name} of shape {list(tensor.shape)}: "
                    "build the engines again"
                )
        outputs = {}
        for spec in self.graph.outputs:
            if spec.name in self._aliased:
                outputs[spec.name] = given[self._in_place[spec.name]]
                continue
            shape = tuple(context.get_tensor_shape(spec.name))
            if any(size < 0 for size in shape):
                raise BackendError(
                    f"graph {self.graph.name}: the shape of {spec.name} is only known after a run "
                    f"({list(shape)}); such graphs cannot be run"
                )
            outputs[spec.name] = torch.empty(shape, dtype=torch_dtype(spec.dtype), device=self._stream.device)
        return outputs

    def _bind(self, context: Any, given: Tensors, outputs: Tensors) -> None:
        for name, tensor in (*given.items(), *outputs.items()):
            # An empty tensor has no address, and TensorRT wants one.
            address = tensor.data_ptr() if tensor.numel() else self._nothing.data_ptr()
            if not context.set_tensor_address(name, address):
                raise BackendError(f"graph {self.graph.name}: the engine refuses the address of {name}")

    def _execute(self, context: Any) -> None:
        with heard(self._trt, logging.ERROR) as messages, self._stream.queue():
            good = context.execute_async_v3(self._stream.handle)
        if not good:
            reason = "; ".join(messages.errors) or "TensorRT gives no reason"
            raise BackendError(f"graph {self.graph.name}: the run failed: {reason}")


def _check_engine(trt: ModuleType, engine: Any, graph: Graph) -> None:
    found = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        mode = "input" if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else "output"
        found[name] = mode, DTYPE_NAMES.get(engine.get_tensor_dtype(name).name)
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise BackendError(
                f"graph {graph.name}: the engine wants {mode} {name} in host memory (its values decide on "
                "shapes); such graphs cannot be run"
            )
    expected = {spec.name: ("input", spec.dtype) for spec in graph.inputs}
    expected |= {spec.name: ("output", spec.dtype) for spec in graph.outputs}
    wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if wrong:
        raise BackendError(
            f"graph {graph.name}: the engine has {wrong[0]} as {found.get(wrong[0])}, and the manifest says "
            f"{expected.get(wrong[0])}: build the engines again"
        )
