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


@dataclass(frozen=True, slots=True)
class Comparison:
    """One stage of one case.

    Attributes:
        case: its name.
        stage: a key of `TOLERANCES`.
        error: the largest absolute error (for ``prompt`` and ``generated``: how many differ); infinite
            where the shapes differ; None where the file does not give the stage.
        note: what else there is to say.
    """

    case: str
    stage: str
    error: float | None
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is within the stage's tolerance; a stage not given has not passed."""
        return self.error is not None and self.error <= TOLERANCES[self.stage]


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify_folder` found.

    Attributes:
        folder: the checkpoint.
        backend: what ran the networks.
        comparisons: every stage of every case, in order.
    """

    folder: Path
    backend: str
    comparisons: tuple[Comparison, ...]

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
            largest.append(Comparison("all cases", stage, max(errors, default=None)))
        return largest

    def lines(self) -> Iterator[str]:
        """The report for people."""
        rows = [*self.comparisons, *self.overall()]
        case = None
        for row in rows:
            if row.case != case:
                case = row.case
                yield case
            verdict = "-" if row.error is None else "ok" if row.passed else "FAILED"
            error = (
                "not given" if row.error is None else "shape" if math.isinf(row.error) else f"{row.error:.3g}"
            )
            tolerance = TOLERANCES[row.stage]
            bound = f"<= {tolerance:g}" if tolerance else "exact"
            yield f"  {row.stage:<15}{error:>10}  {bound:<11}{verdict:<7}{row.note}".rstrip()
        yield f"{'passed' if self.passed else 'FAILED'}: {self.folder} ({self.backend})"
