# SPDX-License-Identifier: Apache-2.0
"""Which TensorRT there is, and which exported graphs it reads."""

from __future__ import annotations

import re
from types import ModuleType

from pixelrefer_ros.errors import BackendError
from pixelrefer_ros.runtime.tensorrt_plans import library

FUSED_FROM = (10, 15)
"""From this version on the parser reads opset 24: TensorScatter, RotaryEmbedding, Attention."""
OLDEST = (10, 0)
OLD_OPSET, FUSED_OPSET = 20, 24


def newest_opset(trt: ModuleType) -> int:
    """The newest opset of exported folders that this TensorRT reads: 20 or 24.

    Args:
        trt: the module ``tensorrt``, or ``tensorrt_rtx``, which counts its versions anew.

    Raises:
        BackendError: it is older than 10.0, or its version cannot be read.
    """
    match = re.match(r"(\d+)\.(\d+)", str(trt.__version__))
    if match is None:
        raise BackendError(f"the version of {library(trt)} cannot be read: install TensorRT 10.0 or later")
    if trt.__name__ == "tensorrt_rtx":
        return FUSED_OPSET
    version = int(match[1]), int(match[2])
    if version < OLDEST:
        raise BackendError(f"{library(trt)} is too old: install TensorRT 10.0 or later")
    return FUSED_OPSET if version >= FUSED_FROM else OLD_OPSET


def check_opset(trt: ModuleType, opset: int, where: str) -> None:
    """Refuses graphs that this TensorRT cannot read.

    Args:
        trt: see `newest_opset`.
        opset: of the exported folder.
        where: the folder, for the message.

    Raises:
        BackendError: the opset is too new; the message says how to export again.
    """
    newest = newest_opset(trt)
    if opset > newest:
        raise BackendError(
            f"{where} holds graphs of opset {opset}, and {library(trt)} reads up to {newest}: export the "
            f"model again with `pixelrefer export MODEL --out DIR --opset {newest}`"
        )
