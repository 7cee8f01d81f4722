# SPDX-License-Identifier: Apache-2.0
"""Enumerations and values of the stand-in for ``tensorrt``."""

from __future__ import annotations

from enum import Enum, IntEnum
from types import SimpleNamespace
from typing import Any

import onnx

MAGIC = b"not a TensorRT plan "
ELEMENTS = {
    onnx.TensorProto.FLOAT: "FLOAT",
    onnx.TensorProto.FLOAT16: "HALF",
    onnx.TensorProto.BFLOAT16: "BF16",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.BOOL: "BOOL",
}


class Severity(IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity


class IProgressMonitor:
    pass


class TensorIOMode(Enum):
    INPUT, OUTPUT = 1, 2


class TensorLocation(Enum):
    DEVICE, HOST = 0, 1


class ExecutionContextAllocationStrategy(Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


def warn(logger: Any, texts: list[str]) -> None:
    for text in texts:
        logger.log(Severity.WARNING, text)


def tensor_of(value: onnx.ValueInfoProto) -> Any:
    kind = value.type.tensor_type
    shape = tuple(-1 if size.dim_param else size.dim_value for size in kind.shape.dim)
    return SimpleNamespace(name=value.name, dtype=SimpleNamespace(name=ELEMENTS[kind.elem_type]), shape=shape)
