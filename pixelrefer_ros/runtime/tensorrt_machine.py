# SPDX-License-Identifier: Apache-2.0
"""What this machine has for TensorRT: the library and the GPU."""

from __future__ import annotations

import importlib
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


def current_gpu(device: str = "cuda") -> Gpu:
    """The GPU of this machine.

    Raises:
        BackendError: torch sees none.
    """
    if not torch.cuda.is_available():
        raise BackendError(
            "torch sees no CUDA GPU: TensorRT needs one, and a torch built for it; or use another backend"
        )
    properties = torch.cuda.get_device_properties(torch.device(device))
    return Gpu(properties.name, (properties.major, properties.minor), properties.total_memory / 1e9)
