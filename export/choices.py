# SPDX-License-Identifier: Apache-2.0
"""What may be chosen for an export, and what exports here."""

from __future__ import annotations

from importlib.metadata import version

import torch
from pixelrefer_ros.export.operators import FUSED_OPSET
from pixelrefer_ros.export.quantise import QUANTISED

from pixelrefer_ros import __version__
from pixelrefer_ros.errors import ParameterError
from pixelrefer_ros.runtime.manifest import OPSETS, PRECISIONS

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Precisions whose weights are floating point numbers, and their dtypes."""


def export_dtype(precision: str, activations: str = "fp32") -> torch.dtype:
    """What a region language model must be loaded in to be exported.

    Args:
        precision: one of `PRECISIONS`.
        activations: fp32, fp16 or bf16: what a decoder with int8 or int4 weights, and the graphs beside it,
            compute in. A CPU wants fp32, a GPU one of the others.

    Raises:
        ParameterError: an unknown value, or activations other than the precision.
    """
    if activations not in DTYPES:
        raise ParameterError(f"activations is {activations!r}; use one of {', '.join(DTYPES)}")
    if precision not in QUANTISED and activations not in ("fp32", precision):
        raise ParameterError(f"activations are {activations}, but precision is {precision}: leave one out")
    return DTYPES[activations if precision in QUANTISED else precision]


def check_opset(opset: int) -> None:
    """Refuses an opset that is none of `OPSETS`.

    Raises:
        ParameterError: it is not.
    """
    if opset not in OPSETS:
        raise ParameterError(f"opset is {opset}; use one of {', '.join(map(str, OPSETS))}")


def check_choices(precision: str, opset: int) -> None:
    """Refuses what a region language model cannot be exported as.

    Raises:
        ParameterError: an unknown precision or opset, or two that do not go together.
    """
    if precision not in PRECISIONS:
        raise ParameterError(f"precision is {precision!r}; use one of {', '.join(PRECISIONS)}")
    check_opset(opset)
    if precision in QUANTISED and opset < FUSED_OPSET:
        raise ParameterError(
            f"precision {precision} needs opset {FUSED_OPSET}: opset {opset} has no scale shared by a "
            "block of weights; use fp16, or opset 24"
        )


def versions() -> dict[str, str]:
    """What exports here: package to version."""
    found = {package: version(package) for package in ("torch", "transformers", "onnx", "onnxscript")}
    return found | {"pixelrefer_ros": __version__}
