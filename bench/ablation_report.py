# SPDX-License-Identifier: Apache-2.0
"""From the results of `ablations.py` to a page: table, plot, and which of the paper's directions appear."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from ablation_verdicts import (
    CATEGORY,
    CLAIMS,
    MEASURES,
    NEIGHBOURS,
    NOISE,
    PICTURE,
    PLOTTED,
    TWINS,
    VIDEO,
    Measured,
    Result,
    change,
    gap_verdict,
    silent,
    spread,
    verdict,
)

_PAGE, _PLOT = "ablations.md", "ablations.svg"


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
    yield "± is one standard error of the questions."
    yield ""
    yield f"![Category, neighbours, picture and video description of every variant]({_PLOT})"
    yield ""
    yield from _claims({result["variant"]: result for result in results})
    yield from _limits(results)
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
        f"points. A difference counts beyond {NOISE:g} standard errors of the questions{_and_runs(results)}. "
        "The paper's own are on other scales (LVIS or PACO, DLC-Bench, HC-STVG): only directions compare."
    )
    yield ""
    heads = [*(f"{measure.title}: paper, here" for measure in PLOTTED), f"{NEIGHBOURS.title}: here"]
    yield f"| table | pair | {' | '.join(heads)} |"
    yield "|---" * (len(heads) + 2) + "|"
    for claim in CLAIMS:
        if not {claim.worse, claim.better} <= set(results):
            continue
        worse, better = results[claim.worse], results[claim.better]
        nothing = (claim.worse, claim.better) in TWINS and silent(worse)
        cells = [
            f"{points:+.1f}, "
            + (
                _SILENT
                if nothing
                else verdict(measure.of(worse), measure.of(better), spread(results, measure))
            )
            for measure, points in zip(PLOTTED, claim.paper, strict=True)
        ]
        told = change(NEIGHBOURS.of(worse), NEIGHBOURS.of(better), spread(results, NEIGHBOURS))
        cells.append(_SILENT if nothing else told)
        yield f"| {claim.table} | {worse['title']} < {better['title']} | {' | '.join(cells)} |"
    yield ""
    gap = gap_verdict(results)
    if gap:
        yield f"Fig. 12, where SAOT gains most over mask pooling on small regions: {gap}."
        yield ""


_SILENT = "not measured"


def _and_runs(results: dict[str, Result]) -> str:
    """What else a difference must exceed, where that is known."""
    said = [(measure.title, spread(results, measure)) for measure in (*PLOTTED, NEIGHBOURS)]
    if not any(points for _, points in said):
        return ""
    spreads = ", ".join(f"{title} {100 * points:.1f}" for title, points in said)
    return f" and {NOISE:g} times the spread of the runs ({spreads} points)"


def _limits(results: Sequence[Result]) -> Iterator[str]:
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
    if all(map(silent, results)):
        yield (
            "- **Local infusion was not measured.** It learns in the stages of perception and instructions, "
            "which were not run; the stage of infusion leaves its output at zero. So rows that differ in it "
            "alone learned the same, and differ as two runs do: that is the spread of the runs above, of two "
            "pairs and one seed."
        )
    else:
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
