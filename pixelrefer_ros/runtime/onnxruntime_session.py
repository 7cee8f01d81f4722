# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime as a backend: torch tensors bound by their addresses, caches updated in place."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pixelrefer_ros.errors import BackendError, ParameterError
from pixelrefer_ros.runtime.devices import named_device
from pixelrefer_ros.runtime.manifest import Graph, TensorSpec, verify_graph
from pixelrefer_ros.runtime.session import check_feeds, torch_dtype

# Element types by their number in ONNX: NumPy has no bfloat16.
_ELEMENTS = {"float32": 1, "uint8": 2, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "bfloat16": 16}
_ERRORS_ONLY = 3
_FUSED_SINCE = (1, 31)  # the oldest that was tried with opset 24
_INT8_DOT_PRODUCTS = "4"


def newest_opset() -> int:
    """The newest opset of ours that the installed ONNX Runtime runs: 24, or 20 for an older one.

    Raises:
        BackendError: ONNX Runtime is not installed.
    """
    major, minor = (int(part) for part in _runtime().__version__.split(".")[:2])
    return 24 if (major, minor) >= _FUSED_SINCE else 20


class OnnxRuntimeBackend:
    """Opens graphs under ONNX Runtime.

    Args:
        device: "cpu", or "cuda" and "cuda:N" where the CUDA provider is installed.
        threads: of one operator, on the CPU; 0 takes torch's number.

    Raises:
        BackendError: ONNX Runtime is not installed.
        ParameterError: an unknown device, none it has a provider for, or threads below 0.
    """

    name = "onnxruntime"

    def __init__(self, device: str = "cpu", threads: int = 0) -> None:
        runtime = _runtime()
        self.device = named_device(device)
        if threads < 0:
            raise ParameterError(f"threads is {threads}; it must be 0 (as torch) or more")
        self.threads = threads or torch.get_num_threads()
        if self.device.type == "cuda" and "CUDAExecutionProvider" not in runtime.get_available_providers():
            raise ParameterError(
                f"device is {device!r}, but the installed onnxruntime has no CUDAExecutionProvider: "
                "install onnxruntime-gpu, or use device 'cpu'"
            )
        self.host_tables = self.device.type == "cuda"

    def open(self, folder: Path, graph: Graph) -> OnnxRuntimeSession:
        """Opens a graph; see `pixelrefer_ros.runtime.Backend`."""
        # A tracker's image encoder takes bytes: only its outputs tell.
        specs = (*graph.inputs, *graph.outputs)
        if self.device.type == "cpu" and any(spec.dtype == "bfloat16" for spec in specs):
            raise BackendError(
                f"{folder / graph.file} is in bfloat16, which ONNX Runtime does not compute on a CPU: "
                "export the model as fp32 (a language model may be int8 or int4, too), or use a GPU"
            )
        verify_graph(folder, graph)
        return OnnxRuntimeSession(folder / graph.file, graph, device=self.device, threads=self.threads)


class OnnxRuntimeSession:
    """One graph; a `pixelrefer_ros.runtime.Session`. Calls from several threads take turns.

    Args:
        path: the ``.onnx`` file.
        graph: its record in the manifest.
        device: where it runs and its tensors lie.
        threads: of one operator, on the CPU.

    Raises:
        BackendError: ONNX Runtime cannot load it, or only on another device; the message says why.
    """

    def __init__(self, path: Path, graph: Graph, *, device: torch.device, threads: int) -> None:
        runtime = _runtime()
        self.graph = graph
        self._device = device
        options = runtime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = threads
        # Threads that wait by spinning take the cores from the tracker.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Quantised weights are multiplied as 8-bit integers rather than spread out to floats.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", _INT8_DOT_PRODUCTS)
        providers: list[Any] = ["CPUExecutionProvider"]
        if device.type == "cuda":
            # float32 is meant where it is written: by itself the provider multiplies it with 10 bits (TF32).
            on_gpu = {"device_id": str(device.index or 0), "use_tf32": "0"}
            providers.insert(0, ("CUDAExecutionProvider", on_gpu))
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime raises a class per status code, with no common base
            raise BackendError(f"{path} cannot be opened by ONNX Runtime: {_first_line(error)}") from error
        # A provider whose libraries do not load is left out with no more than a line on the console.
        if device.type == "cuda" and "CUDAExecutionProvider" not in self._session.get_providers():
            raise BackendError(
                f"{path} would run on the CPU, and device is {str(device)!r}: onnxruntime cannot load its "
                "CUDAExecutionProvider. Install the CUDA and cuDNN that this onnxruntime-gpu was built for "
                "(its console output names what is missing), or use device 'cpu'"
            )
        self._binding = self._session.io_binding()
        self._bound: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._in_place = {output: name for name, output in graph.in_place}
        self._turn = threading.Lock()

    def run(self, feeds: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Runs the graph; see `pixelrefer_ros.runtime.Session`."""
        sizes = check_feeds(self.graph, feeds)
        with self._turn:
            if self._session is None:
                raise BackendError(f"graph {self.graph.name} is closed: open it again")
            results = {}
            for spec in self.graph.outputs:
                if spec.name in self._in_place:
                    results[spec.name] = feeds[self._in_place[spec.name]]
                else:
                    shape = [sizes[size] if isinstance(size, str) else size for size in spec.shape]
                    results[spec.name] = torch.empty(
                        shape, dtype=torch_dtype(spec.dtype), device=self._device
                    )
            try:
                if self._device.type == "cuda":
                    # Its own stream reads the inputs in the run, and some of them as soon as they are bound.
                    torch.cuda.current_stream(self._device).synchronize()
                for spec in self.graph.inputs:
                    self._bind(self._binding.bind_input, spec, feeds[spec.name])
                for spec in self.graph.outputs:
                    self._bind(self._binding.bind_output, spec, results[spec.name])
                self._session.run_with_iobinding(self._binding)
            except Exception as error:
                raise BackendError(
                    f"graph {self.graph.name} failed under ONNX Runtime: {_first_line(error)}"
                ) from error
        return results

    def close(self) -> None:
        """Frees the graph; see `pixelrefer_ros.runtime.Session`."""
        with self._turn:
            self._binding = self._session = None
            self._bound = {}

    def _bind(self, bind: Any, spec: TensorSpec, tensor: torch.Tensor) -> None:
        """Binds memory by its address; what is bound there already stays on a CPU (a decoder's caches)."""
        place = (tensor.data_ptr(), tuple(tensor.shape))
        # An input on a GPU that a node on the CPU reads is copied when it is bound, not when the graph runs.
        if self._device.type != "cpu" or self._bound.get(spec.name) != place:
            number = self._device.index or 0
            bind(spec.name, self._device.type, number, _ELEMENTS[spec.dtype], place[1], place[0])
            self._bound[spec.name] = place


def _runtime() -> Any:
    # Its Linux wheels report usage to their maker and keep a database for it in the home folder; a robot's
    # package does neither unasked. Only the environment, before the import, prevents both.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"ONNX Runtime cannot be imported ({error}): pip install onnxruntime (or onnxruntime-gpu), or "
            "give the checkpoint that the folder was exported from, which torch runs"
        ) from error
    return onnxruntime


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
