# SPDX-License-Identifier: Apache-2.0
"""What this machine has for TensorRT: the library and the GPU."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType

import torch

from pixelrefer_ros.errors import BackendError
from pixelrefer_ros.runtime.tensorrt_plans import Gpu


def import_tensorrt() -> ModuleType:
    """The module ``tensorrt``.

    Raises:
        BackendError: it is not installed, or its libraries cannot be loaded.
    """
    try:
        return importlib.import_module("tensorrt")
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(
            f"TensorRT cannot be imported ({error}): install it (JetPack brings it; elsewhere `pip install "
            "tensorrt`), or use another backend"
        ) from error


def gpu_device(device: torch.device | str | None = None) -> torch.device:
    """A GPU of this machine as torch names it, with its index: "cuda:1".

    Args:
        device: "cuda" or "cuda:N"; None or without an index: this thread's current one.

    Raises:
        BackendError: torch sees no GPU, or not this one; or the device is none.
    """
    if not torch.cuda.is_available():
        raise BackendError(
            "torch sees no CUDA GPU: TensorRT needs one, and a torch built for it; or use another backend"
        )
    count = torch.cuda.device_count()
    there = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
    try:
        found = torch.device("cuda" if device is None else device)
    except RuntimeError as error:
        raise BackendError(f"device is {str(device)!r}, which is none: give {there}") from error
    if found.type != "cuda":
        raise BackendError(f"device is {str(device)!r}, and TensorRT runs on a GPU: give {there}")
    index = torch.cuda.current_device() if found.index is None else found.index
    if index >= count:
        raise BackendError(f"device is {str(device)!r}, which torch does not see: give {there}")
    return torch.device("cuda", index)


def current_gpu(device: torch.device | str | None = None) -> Gpu:
    """The GPU that a device is, for keys of engines.

    Args:
        device: as for `gpu_device`.

    Raises:
        BackendError: as `gpu_device`.
    """
    found = gpu_device(device)
    properties = torch.cuda.get_device_properties(found)
    capability = properties.major, properties.minor
    return Gpu(properties.name, capability, properties.total_memory / 1e9, found.index)


def on_gpu(gpu: Gpu) -> AbstractContextManager[object]:
    """Within the block that GPU is this thread's current one: TensorRT builds for it."""
    return nullcontext() if gpu.index is None else torch.cuda.device(gpu.index)
