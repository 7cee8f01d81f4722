# SPDX-License-Identifier: Apache-2.0
"""What the ablations measure, what the paper found, and which of its directions our results show."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from ablation_variants import FULL, of_tokens

Result = dict[str, Any]
NOISE = 2.0
"""Standard errors that a difference must exceed to count."""


class Measured(NamedTuple):
    """A share, and of how many answers."""

    share: float
    count: int

    @property
    def variance(self) -> float:
        """Of the share, if each answer were a draw of its own; never 0, not even if all are right."""
        likely = (self.share * self.count + 1) / (self.count + 2)
        return likely * (1 - likely) / self.count


@dataclass(frozen=True)
class Measure:
    """A column of the table.

    Attributes:
        title: in the table.
        rows: of the scores, counted together.
        recall: the share of true facts that are stated, instead of that of right answers.
    """

    title: str
    rows: tuple[str, ...]
    recall: bool = False

    def of(self, result: Result) -> Measured | None:
        """None where nothing was asked."""
        rows = [result["scores"][row] for row in self.rows if row in result["scores"]]
        count = sum(row["count"] for row in rows)
        over, under = ("recalled", "expected") if self.recall else ("correct", "count")
        whole = sum(row[under] for row in rows)
        return Measured(sum(row[over] for row in rows) / whole, count) if whole else None


CATEGORY = Measure("category", ("category",))
NEIGHBOURS = Measure("neighbours", ("relation",))
SMALL, LARGE = (Measure(f"{size} regions", (f"category, {size}",)) for size in ("small", "large"))
PICTURE = Measure("picture description", ("describe_detail",), recall=True)
VIDEO = Measure("video description", ("describe_video",), recall=True)
MEASURES = (
    CATEGORY,
    SMALL,
    LARGE,
    Measure("attributes", ("attributes",)),
    Measure("place", ("place",)),
    NEIGHBOURS,
    Measure("comparison", ("comparison",)),
    Measure("motion and time", ("time",)),
    PICTURE,
    VIDEO,
)
PLOTTED = (CATEGORY, PICTURE, VIDEO)
"""What stands for the paper's LVIS or PACO, DLC-Bench, and VideoRefer-Bench-D or HC-STVG."""


class Claim(NamedTuple):
    """The paper found ``better`` above ``worse``, by so much in what stands for each of `PLOTTED`."""

    table: str
    worse: str
    better: str
    paper: tuple[float, float, float]


CLAIMS = (
    Claim("7", of_tokens(1), of_tokens(8), (3.9, 5.2, 20.2)),
    Claim("7", of_tokens(8), of_tokens(16), (0.9, 5.7, 2.0)),
    Claim("7", of_tokens(16), of_tokens(32), (0.8, 1.0, 12.7)),
    Claim("8", "mask-pooling", FULL, (6.8, 9.3, 2.3)),
    Claim("8", "no-expansion", FULL, (5.2, 0.7, 0.9)),
    Claim("8", "no-position", FULL, (0.2, 1.8, 1.7)),
    Claim("9", "no-infusion", "no-global", (0.2, 1.5, 4.1)),
    Claim("9", "no-infusion", "no-local", (3.2, 1.6, 7.6)),
    Claim("9", "no-local", FULL, (1.2, 0.1, 14.1)),
    Claim("9", "no-global", FULL, (4.2, 0.2, 17.6)),
)
"""Differences of the printed scores, in their points: LVIS (SSim; Table 7: PACO), DLC-Bench, HC-STVG (CIDEr);
Table 7's are those of the object-only framework."""


TWINS = (("no-local", FULL), ("no-infusion", "no-global"))
"""Pairs that differ in local infusion alone."""


def silent(result: Result) -> bool:
    """Whether local infusion has learned nothing: that stage leaves it at zero, later ones teach it."""
    return not any(result["recipe"]["steps"])


def spread(results: dict[str, Result], measure: Measure) -> float:
    """How far a share moves from run to run, one standard deviation: from `TWINS` that learned the same.

    Their networks compute the same but for one constant vector, so they differ as two trainings do. 0 where
    local infusion learned something, or there are no such pairs.
    """
    differences = []
    for one, other in TWINS:
        if {one, other} <= set(results) and silent(results[one]):
            shares = [measure.of(results[name]) for name in (one, other)]
            if shares[0] is not None and shares[1] is not None:
                differences.append(shares[0].share - shares[1].share)
    return math.sqrt(sum(d * d for d in differences) / len(differences)) if differences else 0.0


def verdict(worse: Measured | None, better: Measured | None, runs: float = 0.0) -> str:
    """What our two shares say of a claim; differences within the noise say nothing.

    Args:
        worse: by the paper.
        better: by the paper.
        runs: by how much such a difference changes from run to run, one standard deviation.
    """
    if worse is None or better is None:
        return "not measured"
    points = f"({100 * (better.share - worse.share):+.1f})"
    if too_close(worse, better, runs):
        return f"too close to tell {points}"
    return f"{'as' if better.share > worse.share else 'NOT as'} in the paper {points}"


def too_close(one: Measured, other: Measured, runs: float) -> bool:
    """Whether their difference is within the noise, of the questions or of the runs."""
    questions = math.sqrt(one.variance + other.variance)
    return abs(one.share - other.share) <= NOISE * max(questions, runs)


def change(worse: Measured | None, better: Measured | None, runs: float = 0.0) -> str:
    """The difference of our two shares, where the paper has none."""
    if worse is None or better is None:
        return "not measured"
    points = f"{100 * (better.share - worse.share):+.1f}"
    return f"too close to tell ({points})" if too_close(worse, better, runs) else points


def gap_verdict(results: dict[str, Result]) -> str | None:
    """Fig. 12: SAOT gains more over mask pooling on small regions than on large ones."""
    if not {"mask-pooling", FULL} <= set(results):
        return None
    four = [m.of(results[name]) for m in (SMALL, LARGE) for name in ("mask-pooling", FULL)]
    if any(one is None for one in four):
        return "not measured"
    small_pooling, small_full, large_pooling, large_full = (one for one in four if one is not None)
    small, large = small_full.share - small_pooling.share, large_full.share - large_pooling.share
    error = math.sqrt(sum(one.variance for one in four if one is not None))
    gains = f"gain {100 * small:+.1f} on small, {100 * large:+.1f} on large regions"
    if abs(small - large) <= NOISE * error:
        return f"too close to tell ({gains})"
    return f"{'as' if small > large else 'NOT as'} in the paper ({gains})"
