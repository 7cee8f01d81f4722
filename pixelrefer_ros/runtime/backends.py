# SPDX-License-Identifier: Apache-2.0
"""Which backend runs a model, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from pixelrefer_ros.errors import ParameterError, PixelReferError
from pixelrefer_ros.runtime.devices import named_device
from pixelrefer_ros.runtime.manifest import MANIFEST, is_exported
from pixelrefer_ros.runtime.onnxruntime_session import OnnxRuntimeBackend
from pixelrefer_ros.runtime.session import Backend
from pixelrefer_ros.runtime.tensorrt_plans import ENGINES, record_path

BACKENDS = ("auto", "tensorrt", "onnxruntime", "torch")
"""The names a user may give, fastest first after "auto"."""

_CHECKPOINT = (
    "auto: the model is a checkpoint, which torch runs; `pixelrefer export` makes a faster folder of it"
)


@dataclass(frozen=True, slots=True)
class BackendInUse:
    """What runs a model that is loaded: for logs and diagnostics.

    Attributes:
        name: one of `BACKENDS`, not "auto".
        device: as torch writes it.
        precision: of a checkpoint the dtype it was loaded in, of an exported folder that of its export.
        reason: why this backend.
    """

    name: str
    device: str
    precision: str
    reason: str

    def __str__(self) -> str:
        """Without the reason: "onnxruntime cpu int8"."""
        return f"{self.name} {self.device} {self.precision}"


def choose_backend(
    name: str = "auto",
    folder: Path | None = None,
    device: str | None = None,
    engines: Path | None = None,
) -> tuple[str, str]:
    """Chooses a backend.

    A checkpoint (safetensors) runs in torch. An exported folder runs under ONNX Runtime or TensorRT: "auto"
    takes TensorRT on a GPU for which the folder has engines, else ONNX Runtime. Nothing is built here: it
    takes minutes, so who wants it (the node, while it configures) does it before.

    Args:
        name: one of `BACKENDS`.
        folder: of the model; None for a checkpoint.
        device: where the model shall run; TensorRT runs on a GPU only. None for any.
        engines: where the folder's TensorRT engines lie; None: in the folder.

    Returns:
        The backend and why it was chosen, for people.

    Raises:
        ParameterError: an unknown name, a backend that cannot run such a folder, or a device that none has.
        BackendError: nothing that is installed runs the folder.
    """
    if name not in BACKENDS:
        raise ParameterError(f"backend is {name!r}; use one of {', '.join(BACKENDS)}")
    if folder is None or not is_exported(folder):
        if name not in ("auto", "torch"):
            raise ParameterError(
                f"backend {name!r} is not available for {folder or 'a checkpoint'}: it has no {MANIFEST}; "
                "make one with `pixelrefer export MODEL --out DIR` and give DIR, or use 'torch'"
            )
        return "torch", "asked for" if name == "torch" else _CHECKPOINT
    if name == "torch":
        raise ParameterError(
            f"backend 'torch' cannot run {folder}: it is an exported folder; give the checkpoint it was "
            "exported from, or use 'onnxruntime'"
        )
    if name == "onnxruntime":
        return name, "asked for"
    missing = _why_not_tensorrt(folder, device, engines)
    if name == "tensorrt":
        if missing:
            raise ParameterError(f"backend 'tensorrt' cannot run {folder}: {missing}")
        return name, "asked for"
    if not missing:
        return "tensorrt", f"auto: {folder} has engines for this machine"
    try:
        OnnxRuntimeBackend(device or "cpu")
    except PixelReferError as error:
        raise type(error)(f"nothing here runs {folder}: {error}; nor does TensorRT: {missing}") from error
    return "onnxruntime", f"auto: {folder} is an exported folder, and TensorRT does not run it: {missing}"


def _why_not_tensorrt(folder: Path, device: str | None, engines: Path | None) -> str:
    try:
        place = None if device is None else named_device(device)
    except ParameterError as error:
        return str(error)
    if place is not None and place.type != "cuda":
        where = engines or folder / ENGINES
        if any(where.glob(record_path(where, "*").name)):
            return f"engines are there, but device is {device!r}; they run on 'cuda'"
        return f"it runs on a GPU, and device is {device!r}"
    from pixelrefer_ros.runtime.tensorrt_backend import why_not_tensorrt  # most machines never need it

    return why_not_tensorrt(folder, engines, place)


def open_backend(name: str, device: str, engines: Path | None = None) -> Backend:
    """A backend for compiled graphs, by the name that `choose_backend` gave.

    Args:
        name: "tensorrt" or "onnxruntime".
        device: "cpu", "cuda" or "cuda:N".
        engines: as for `choose_backend`.

    Raises:
        BackendError: it is not installed.
        ParameterError: it does not run on the device.
    """
    if name == "tensorrt":
        from pixelrefer_ros.runtime.tensorrt_backend import TensorRtBackend

        return TensorRtBackend(engines, torch.device(device))
    return OnnxRuntimeBackend(device)
