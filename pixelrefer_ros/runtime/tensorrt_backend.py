# SPDX-License-Identifier: Apache-2.0
"""What opens TensorRT engines: only those built for this very graph, library and GPU."""

from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from pixelrefer_ros.errors import BackendError, PixelReferError
from pixelrefer_ros.runtime.device_stream import CudaStream, DeviceStream
from pixelrefer_ros.runtime.manifest import Graph, read_manifest
from pixelrefer_ros.runtime.tensorrt_machine import current_gpu, gpu_device, import_tensorrt
from pixelrefer_ros.runtime.tensorrt_messages import heard, logger_of
from pixelrefer_ros.runtime.tensorrt_plans import (
    ENGINES,
    EngineRecord,
    Gpu,
    engine_key,
    library,
    read_plan,
    read_record,
)
from pixelrefer_ros.runtime.tensorrt_session import TensorRtSession
from pixelrefer_ros.runtime.tensorrt_sizes import engine_graph


class TensorRtBackend:
    """A `pixelrefer_ros.runtime.Backend` that runs engines built by ``pixelrefer build-engines``.

    Args:
        engines: the folder of engines; None: ``engines`` in the exported folder.
        device: the GPU to run on, "cuda" or "cuda:N"; None: the current one.
        trt: the module ``tensorrt``; None: imports it.
        gpu: that the engines must be for; None: asks torch what the device is.
        stream: to run on; None: a CUDA stream of the device.

    Raises:
        BackendError: no TensorRT, or no such GPU.
    """

    name = "tensorrt"
    host_tables = True

    def __init__(
        self,
        engines: Path | None = None,
        device: torch.device | None = None,
        *,
        trt: ModuleType | None = None,
        gpu: Gpu | None = None,
        stream: DeviceStream | None = None,
    ) -> None:
        self._engines = engines
        self._trt = trt or import_tensorrt()
        self._gpu = gpu or current_gpu(device)
        self._stream = stream or CudaStream(gpu_device(device))
        self._runtime: Any = None

    def open(self, folder: Path, graph: Graph) -> TensorRtSession:
        """Opens the engine of a graph; its `Session.graph` is the graph as the engine is (`engine_graph`).

        Raises:
            CheckpointError: the folder is no exported one.
            BackendError: there is no engine, or it was built for something else or changed since, or TensorRT
                refuses it (for want of memory, too); the message says what to do.
        """
        engines = self._engines or folder / ENGINES
        record = engine_record(self._trt, self._gpu, folder, graph, engines)
        try:
            plan = read_plan(engines, record)
        except BackendError:
            before, record = record, engine_record(self._trt, self._gpu, folder, graph, engines)
            if record == before:
                raise
            plan = read_plan(engines, record)  # another process has just built it anew
        # An engine lives on the device that is current when it is deserialised.
        with self._stream.alone(), heard(self._trt, logging.ERROR) as messages:
            if self._runtime is None:
                self._runtime = self._trt.Runtime(logger_of(self._trt))
            engine = self._runtime.deserialize_cuda_engine(plan)
            if engine is None:
                torch.cuda.empty_cache()  # what torch keeps for later is memory that the engine cannot have
                engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BackendError(
                f"{engines / record.file}: {library(self._trt)} refuses the engine ("
                + ("; ".join(messages.errors) or "it gives no reason")
                + f"). If GPU memory is short, free some; if not, {_remedy(folder, self._gpu)} --again"
            )
        return TensorRtSession(self._trt, engine, engine_graph(graph, record.profiles), self._stream)


def engine_record(trt: ModuleType, gpu: Gpu, folder: Path, graph: Graph, engines: Path) -> EngineRecord:
    """The record of a graph's engine, after its key was found to be this machine's.

    Args:
        trt: the module ``tensorrt``.
        gpu: that it must be for.
        folder: the exported one.
        graph: of its manifest.
        engines: the folder of engines.

    Raises:
        BackendError: there is none, or it was built for something else; the message says what.
    """
    record = read_record(engines, graph.name)
    if record is None:
        raise BackendError(f"{engines} has no engine of graph {graph.name}: {_remedy(folder, gpu)}")
    now = engine_key(
        graph,
        precision=read_manifest(folder).precision,
        tensorrt=library(trt),
        gpu=gpu,
        profile=record.key.profile,  # whichever was chosen when it was built
    )
    changes = record.key.changes(now)
    if changes:
        raise BackendError(
            f"the engine of graph {graph.name} in {engines} is for something else: {'; '.join(changes)}: "
            + _remedy(folder, gpu)
        )
    return record


def why_not_tensorrt(
    folder: Path,
    engines: Path | None = None,
    device: torch.device | str | None = None,
    *,
    read_plans: bool = False,
) -> str:
    """Why TensorRT cannot run an exported folder on this machine as it is; empty if it can.

    Args:
        folder: the exported one.
        engines: as for `TensorRtBackend`.
        device: as for `TensorRtBackend`.
        read_plans: whether the plans' bytes are looked at, too (a second and more for gigabytes), and not
            only that each is there with a record for this machine.
    """
    engines = engines or folder / ENGINES
    try:
        graphs = read_manifest(folder).compiled()
        trt, gpu = import_tensorrt(), current_gpu(device)
        for graph in graphs:
            record = engine_record(trt, gpu, folder, graph, engines)
            if read_plans:
                read_plan(engines, record)
            elif not (engines / record.file).is_file():
                return f"{engines / record.file} is missing: {_remedy(folder, gpu)}"
    except PixelReferError as error:
        return str(error)
    return ""


def _remedy(folder: Path, gpu: Gpu) -> str:
    # An index other than 0 is said: the command builds for the first GPU.
    device = f" --device cuda:{gpu.index}" if gpu.index else ""
    return f"build it with `pixelrefer build-engines {folder}{device}`"
