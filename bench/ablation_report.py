# SPDX-License-Identifier: Apache-2.0
"""From the results of `ablations.py` to a page: table, plot, and which of the paper's directions appear."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from ablation_variants import FULL, of_tokens

Result = dict[str, Any]
NOISE = 2.0
"""Standard errors that a difference must exceed to count."""

_PAGE, _PLOT = "ablations.md", "ablations.svg"


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


def verdict(worse: Measured | None, better: Measured | None) -> str:
    """What our two shares say of a claim; differences within the noise say nothing."""
    if worse is None or better is None:
        return "not measured"
    points = f"({100 * (better.share - worse.share):+.1f})"
    if too_close(worse, better):
        return f"too close to tell {points}"
    return f"{'as' if better.share > worse.share else 'NOT as'} in the paper {points}"


def too_close(one: Measured, other: Measured) -> bool:
    """Whether their difference is within the noise."""
    return abs(one.share - other.share) <= NOISE * math.sqrt(one.variance + other.variance)


def change(worse: Measured | None, better: Measured | None) -> str:
    """The difference of our two shares, where the paper has none."""
    if worse is None or better is None:
        return "not measured"
    points = f"{100 * (better.share - worse.share):+.1f}"
    return f"too close to tell ({points})" if too_close(worse, better) else points


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


def write_report(results: Sequence[Result], folder: Path) -> Path:
    """Writes page and plot.

    Args:
        results: of `ablations.py`, in the order of the table.
        folder: where.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _PLOT).write_text("\n".join(plot(results)) + "\n", encoding="utf-8")
    page = folder / _PAGE
    page.write_text("\n".join(lines(results)) + "\n", encoding="utf-8")
    return page


def lines(results: Sequence[Result]) -> Iterator[str]:
    """The page."""
    first = results[0]
    yield "# The paper's ablations at small scale"
    yield ""
    yield "Written by `bench/ablations.py`; not edited by hand."
    yield ""
    if first["smoke"]:
        yield "**A smoke run: a few steps of a tiny model. These numbers mean nothing.**"
        yield ""
    recipe = first["recipe"]
    stages = (
        ("attribute_steps", "on attributes"),
        ("frame_steps", "on frames"),
        ("side_steps", "on sides"),
        ("reading_steps", "of reading"),
        ("infusion_steps", "of infusion"),
    )
    before = "".join(f"{recipe[name]} steps {what}, " for name, what in stages if recipe.get(name))
    both = f"{' + '.join(map(str, recipe['steps']))} steps of {recipe['scenes']} scenes, "
    yield (
        f"The model of [training](training.md) trained from nothing, {before}"
        f"{both if any(recipe['steps']) else ''}once per row with seed {recipe['seed']}; then "
        f"{first['test_scenes']} test scenes with up to {first['questions']} questions each. Exact answers, "
        "%; of descriptions the true facts that are stated, %. Small regions have fewer than 2000 pixels."
    )
    if first.get("history"):
        yield ""
        yield f"What all rows share, which is all before infusion: {first['history']}."
    yield ""
    yield f"| | parameters | {' | '.join(m.title for m in MEASURES)} |"
    yield "|---" * (len(MEASURES) + 2) + "|"
    for result in results:
        cells = [_cell(measure.of(result)) for measure in MEASURES]
        yield f"| {result['title']} | {result['parameters'] / 1e6:.2f} M | {' | '.join(cells)} |"
    yield ""
    yield "± is one standard error of the questions; the spread over training seeds was not measured."
    yield ""
    yield f"![Category, neighbours, picture and video description of every variant]({_PLOT})"
    yield ""
    yield from _claims({result["variant"]: result for result in results})
    yield from _limits()
    yield "## How it was run"
    yield ""
    commits: dict[tuple[str, str], set[str]] = {}
    for result in results:
        commits.setdefault(_origin(result), set()).add(result["commit"])
    for (command, machine), those in sorted(commits.items()):
        yield f"- `{command}`, commit {' and '.join(sorted(those))}, on {machine}"


def _claims(results: dict[str, Result]) -> Iterator[str]:
    yield "## Against the paper"
    yield ""
    yield (
        "Each row is a pair of which the paper has the second above the first; in brackets our difference in "
        f"points. A difference counts beyond {NOISE:g} standard errors. The paper's own are on other scales "
        "(LVIS or PACO, DLC-Bench, HC-STVG): only directions compare."
    )
    yield ""
    heads = [*(f"{measure.title}: paper, here" for measure in PLOTTED), f"{NEIGHBOURS.title}: here"]
    yield f"| table | pair | {' | '.join(heads)} |"
    yield "|---" * (len(heads) + 2) + "|"
    for claim in CLAIMS:
        if not {claim.worse, claim.better} <= set(results):
            continue
        worse, better = results[claim.worse], results[claim.better]
        cells = [
            f"{points:+.1f}, {verdict(measure.of(worse), measure.of(better))}"
            for measure, points in zip(PLOTTED, claim.paper, strict=True)
        ]
        cells.append(change(NEIGHBOURS.of(worse), NEIGHBOURS.of(better)))
        yield f"| {claim.table} | {worse['title']} < {better['title']} | {' | '.join(cells)} |"
    yield ""
    gap = gap_verdict(results)
    if gap:
        yield f"Fig. 12, where SAOT gains most over mask pooling on small regions: {gap}."
        yield ""


def _limits() -> Iterator[str]:
    yield "## What differs from the paper"
    yield ""
    yield (
        "- All rows are of the object-only model; the paper's Table 8 and Fig. 12 are of the one that also "
        "sees the image."
    )
    yield "- Vision encoder and language model are small and trained from nothing, not taken from large ones."
    yield (
        "- A step of infusion holds as many positions in every row, so with more object tokens fewer "
        "questions; and the language model that all rows begin with has read eight tokens for each region."
    )
    yield "- The scale of a crop follows from the number of tokens, so fewer tokens also see a coarser crop."
    yield "- Mask pooling is the mean of the whole frame's features under the mask: one token, no crop."
    yield "- Without expansion the local context, too, is cut at the object's box."
    yield ""


def _cell(measured: Measured | None) -> str:
    if measured is None:
        return "-"
    return f"{100 * measured.share:.1f} ± {100 * math.sqrt(measured.variance):.1f}"


def _origin(result: Result) -> tuple[str, str]:
    machine = result["machine"]
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"
    return result["command"], f"{machine['device']} ({threads}, torch {machine['torch']})"


_ROW, _BAR, _LEFT, _WIDE, _TOP = 68, 14, 230, 420, 40
_BARS = {CATEGORY: "#2b6cb0", NEIGHBOURS: "#8e5ea2", PICTURE: "#dd8a1d", VIDEO: "#3f8f4f"}


def plot(results: Sequence[Result]) -> Iterator[str]:
    """Bars, a group per variant, as SVG."""
    height = _TOP + _ROW * len(results) + 10
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDE + 110} {height}" '
        'font-family="sans-serif" font-size="13">'
    )
    yield f'<rect width="100%" height="{height}" fill="white"/>'
    for place, (measure, color) in enumerate(_BARS.items()):
        x = 20 + 185 * place
        yield f'<rect x="{x}" y="12" width="12" height="12" fill="{color}"/>'
        yield f'<text x="{x + 17}" y="23">{escape(measure.title)}, %</text>'
    for row, result in enumerate(results):
        y = _TOP + _ROW * row
        yield f'<text x="{_LEFT - 8}" y="{y + 34}" text-anchor="end">{escape(result["title"])}</text>'
        for place, (measure, color) in enumerate(_BARS.items()):
            measured = measure.of(result)
            if measured is None:
                continue
            width, top = _WIDE * measured.share, y + 2 + _BAR * place
            yield f'<rect x="{_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR - 2}" fill="{color}"/>'
            beside = f'x="{_LEFT + width + 4:.1f}" y="{top + 11}" font-size="11"'
            yield f"<text {beside}>{100 * measured.share:.1f}</text>"
    yield "</svg>"
