# SPDX-License-Identifier: Apache-2.0
"""What ``pixelrefer verify`` found, and how far each stage may be off."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Largest absolute error in float32; 0 means equal. Pre-processing is OpenCV on integers, so it is exact.
TOLERANCES = {
    "crop": 0.0,
    "grid_mask": 1e-6,  # interpolated in float32: the last digit is the processor's
    "box": 0.0,
    "context": 0.0,
    "global": 0.0,
    "crop_pixels": 1e-6,  # a division and a subtraction may be rounded in another order
    "vision_crop": 1e-4,
    "vision_context": 1e-4,
    "vision_global": 1e-4,
    "prompt": 0.0,
    "object_tokens": 1e-4,
    "logits": 1e-3,
    "generated": 0.0,
}

ROUNDING = {"fp16": 2e-3, "bf16": 2e-2, "int8": 2e-2, "int4": 2.5e-1, "int8 vision": 6e-2}
"""How far one graph of a small model may be off in each precision: the error's norm over that of the values.

Half precision rounds each of some ten steps to 2^-11 or 2^-8; weights of 8 and 4 bits are rounded to 1/255
and 1/15 of the range of 32 and 64 of them. A vision encoder of integers rounds the weights of a column to
1/128 of their range and all it multiplies with to 1/255. The tests of the export hold every graph to it.
"""
WHOLE_MODEL = 2.0
"""A whole model may be off by this times `ROUNDING`: by three graphs after each other, of more layers."""
_OF_THE_ENCODERS = ("vision_crop", "vision_context", "vision_global", "object_tokens")


@dataclass(frozen=True, slots=True)
class Precision:
    """What the networks compute in.

    Attributes:
        weights: of the decoder: fp32, fp16, bf16, int8 or int4, as a manifest says it.
        activations: of every graph, and the weights of the others: fp32, fp16 or bf16.
        int8_vision: whether the vision encoder multiplies integers.
    """

    weights: str = "fp32"
    activations: str = "fp32"
    int8_vision: bool = False

    def rounding(self, stage: str) -> float:
        """How far a stage may be off by rounding, as `ROUNDING`; 0: not by more than float32 is."""
        if stage in _OF_THE_ENCODERS:
            precisions = {self.activations}
        elif stage in ("logits", "generated"):
            precisions = {self.activations, self.weights}
        else:
            return 0.0
        if self.int8_vision:
            precisions.add("int8 vision")
        return WHOLE_MODEL * sum(ROUNDING.get(precision, 0.0) for precision in precisions)

    def __str__(self) -> str:
        """For people."""
        vision = ", vision in int8" if self.int8_vision else ""
        if self.weights == self.activations:
            return self.weights + vision
        return f"{self.weights} with activations in {self.activations}{vision}"


FLOAT32 = Precision()
"""That of a checkpoint."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One stage of one case.

    Attributes:
        case: its name.
        stage: a key of `TOLERANCES`.
        error: the largest absolute error, or, where there is `rounding`, the error's norm over that of the
            values (for ``prompt`` and ``generated``: how many differ); infinite where the shapes differ; None
            where the file does not give the stage.
        note: what else there is to say.
        rounding: how far the stage may be off by rounding, see `Precision.rounding`.
    """

    case: str
    stage: str
    error: float | None
    note: str = ""
    rounding: float = 0.0

    @property
    def tolerance(self) -> float | None:
        """The largest error that passes; None if any number does.

        With rounding, a token may win that was nearly as likely as the one expected, and all that follow are
        others: how many differ says nothing then.
        """
        if not self.rounding:
            return TOLERANCES[self.stage]
        return None if self.stage == "generated" else self.rounding

    @property
    def passed(self) -> bool:
        """Whether the error is within the stage's tolerance; a stage not given has not passed."""
        if self.error is None or math.isinf(self.error):
            return False
        return self.tolerance is None or self.error <= self.tolerance

    def line(self) -> str:
        """Stage, error, tolerance, verdict, note."""
        scale, unit = (100, " %") if self.rounding and self.tolerance is not None else (1, "")
        if self.error is None:
            error = "not given"
        else:
            error = "shape" if math.isinf(self.error) else f"{scale * self.error:.3g}{unit}"
        if self.tolerance is None:
            bound = "any"
        else:
            bound = f"<= {scale * self.tolerance:g}{unit}" if self.tolerance else "exact"
        judged = self.error is not None and (self.tolerance is not None or not self.passed)
        verdict = ("ok" if self.passed else "FAILED") if judged else "-"
        return f"  {self.stage:<15}{error:>10}  {bound:<11}{verdict:<7}{self.note}".rstrip()


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify_folder` found.

    Attributes:
        folder: the checkpoint.
        backend: what ran the networks.
        comparisons: every stage of every case, in order.
        precision: what they computed in.
    """

    folder: Path
    backend: str
    comparisons: tuple[Comparison, ...]
    precision: Precision = FLOAT32

    @property
    def passed(self) -> bool:
        """True if something was compared and all of it is within tolerance."""
        given = [comparison for comparison in self.comparisons if comparison.error is not None]
        return bool(given) and all(comparison.passed for comparison in given)

    def overall(self) -> list[Comparison]:
        """The largest error of each stage over all cases."""
        largest = []
        for stage in TOLERANCES:
            errors = [
                found.error for found in self.comparisons if found.stage == stage and found.error is not None
            ]
            rounding = self.precision.rounding(stage)
            largest.append(Comparison("all cases", stage, max(errors, default=None), rounding=rounding))
        return largest

    def lines(self) -> Iterator[str]:
        """The report for people."""
        case = None
        for row in (*self.comparisons, *self.overall()):
            if row.case != case:
                case = row.case
                yield case
            yield row.line()
        if any(row.rounding for row in self.comparisons):
            yield "in percent: the norm of the error over that of the values; else the largest error"
        verdict = "passed" if self.passed else "FAILED"
        yield f"{verdict}: {self.folder} ({self.backend}; {self.precision})"
