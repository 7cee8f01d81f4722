# SPDX-License-Identifier: Apache-2.0
"""Which backend runs the language model."""

from __future__ import annotations

from pixelrefer_ros.errors import ParameterError

BACKENDS = ("auto", "tensorrt", "onnxruntime", "torch")
"""The names a user may give, fastest first after "auto"."""

_AVAILABLE = ("torch",)


def choose_backend(name: str = "auto") -> tuple[str, str]:
    """Chooses a backend.

    Args:
        name: one of `BACKENDS`.

    Returns:
        The backend and why it was chosen, for the log.

    Raises:
        ParameterError: an unknown name, or a backend this version does not have.
    """
    if name == "auto":
        return _AVAILABLE[0], f"auto: {_AVAILABLE[0]} is the fastest backend of this version"
    if name in _AVAILABLE:
        return name, "asked for"
    if name in BACKENDS:
        raise ParameterError(f"backend {name!r} is not available in this version; use 'auto' or 'torch'")
    raise ParameterError(f"backend is {name!r}; use one of {', '.join(BACKENDS)}")
