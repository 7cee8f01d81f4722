# SPDX-License-Identifier: Apache-2.0
"""Devices and number formats by the names that settings give them."""

from __future__ import annotations

import torch

from pixelrefer_ros.errors import ParameterError

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}
"""What a checkpoint's weights may be loaded in."""


def named_device(name: str) -> torch.device:
    """The device of a name: "cpu", "cuda" or "cuda:N".

    Raises:
        ParameterError: it is none of these.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ParameterError(f"device is {name!r}; use 'cpu', 'cuda' or 'cuda:N'")
    return device


def torch_device(name: str) -> torch.device:
    """The device of a name, where torch computes.

    Raises:
        ParameterError: it is none, or torch does not see it here.
    """
    device = named_device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ParameterError(
            f"device is {name!r}, but torch sees {torch.cuda.device_count()} GPUs here; use 'cpu'"
        )
    return device


def named_dtype(name: str) -> torch.dtype:
    """The number format of a name in `DTYPES`.

    Raises:
        ParameterError: there is none of that name.
    """
    if name not in DTYPES:
        raise ParameterError(f"dtype is {name!r}; use one of {', '.join(DTYPES)}")
    return DTYPES[name]
