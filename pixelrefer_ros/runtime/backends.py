# SPDX-License-Identifier: Apache-2.0
"""Which backend runs a model, and why."""

from __future__ import annotations

from pathlib import Path

from pixelrefer_ros.errors import ParameterError
from pixelrefer_ros.runtime.manifest import MANIFEST, is_exported
from pixelrefer_ros.runtime.onnxruntime_session import OnnxRuntimeBackend
from pixelrefer_ros.runtime.session import Backend

BACKENDS = ("auto", "tensorrt", "onnxruntime", "torch")
"""The names a user may give, fastest first after "auto"."""


def choose_backend(name: str = "auto", folder: Path | None = None) -> tuple[str, str]:
    """Chooses a backend.

    A checkpoint (safetensors) runs in torch. An exported folder runs under ONNX Runtime or TensorRT.

    Args:
        name: one of `BACKENDS`.
        folder: of the model; None for a checkpoint.

    Returns:
        The backend and why it was chosen, for the log.

    Raises:
        ParameterError: an unknown name, a backend that cannot run such a folder, or one that is not there.
    """
    if name not in BACKENDS:
        raise ParameterError(f"backend is {name!r}; use one of {', '.join(BACKENDS)}")
    if folder is None or not is_exported(folder):
        if name not in ("auto", "torch"):
            raise ParameterError(
                f"backend {name!r} is not available for {folder or 'a checkpoint'}: it has no {MANIFEST}; "
                "make one with `pixelrefer export MODEL --out DIR` and give DIR, or use 'torch'"
            )
        return (
            "torch",
            "asked for" if name == "torch" else "auto: the model is a checkpoint, which torch runs",
        )
    if name == "torch":
        raise ParameterError(
            f"backend 'torch' cannot run {folder}: it is an exported folder; give the checkpoint it was "
            "exported from, or use 'onnxruntime'"
        )
    if name == "tensorrt":
        raise ParameterError("backend 'tensorrt' is not available in this version; use 'onnxruntime'")
    reason = (
        "asked for" if name != "auto" else "auto: the folder is an exported one, and TensorRT is not here"
    )
    return "onnxruntime", reason


def open_backend(name: str, device: str) -> Backend:
    """A backend for compiled graphs, by the name that `choose_backend` gave.

    Raises:
        BackendError: it is not installed.
        ParameterError: it does not run on the device.
    """
    assert name == "onnxruntime", name  # noqa: S101 (choose_backend gives no other yet)
    return OnnxRuntimeBackend(device)
