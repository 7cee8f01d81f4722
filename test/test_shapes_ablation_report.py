# SPDX-License-Identifier: Apache-2.0
"""The page of the ablations claims no more than was seen."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

from ablation_report import lines, plot
from ablation_variants import FULL, VARIANTS
from ablation_verdicts import (
    CATEGORY,
    CLAIMS,
    MEASURES,
    NEIGHBOURS,
    TWINS,
    Measured,
    change,
    gap_verdict,
    spread,
    verdict,
)


def test_every_claim_is_about_variants_that_are_trained():
    assert {name for claim in CLAIMS for name in (claim.worse, claim.better)} <= set(VARIANTS)
    assert {claim.table for claim in CLAIMS} == {"7", "8", "9"}


def test_a_difference_within_the_noise_says_nothing():
    # Standard error of a difference of two shares near 0.5 of 100 answers each: 7 points.
    assert verdict(Measured(0.45, 100), Measured(0.55, 100)).startswith("too close")
    assert verdict(Measured(0.30, 100), Measured(0.55, 100)) == "as in the paper (+25.0)"
    assert verdict(Measured(0.55, 100), Measured(0.30, 100)) == "NOT as in the paper (-25.0)"
    assert verdict(None, Measured(0.3, 100)) == "not measured"
    # All of three right is no certainty.
    assert verdict(Measured(0.6667, 3), Measured(1.0, 3)).startswith("too close")


def result(name: str, small: float, large: float) -> dict:
    scores = {
        f"category, {size}": {"count": 1000, "correct": round(1000 * share), "stated": 0, "true": 0}
        | {"expected": 0, "recalled": 0}
        for size, share in (("small", small), ("large", large))
    }
    scores["category"] = scores["category, small"]
    return {
        "variant": name,
        "title": VARIANTS[name].title,
        "scores": scores,
        "parameters": 1_000_000,
        "recipe": {
            "steps": [10, 10],
            "seed": 0,
            "scenes": 4,
            "attribute_steps": 7,
            "frame_steps": 6,
            "side_steps": 2,
            "reading_steps": 8,
            "infusion_steps": 5,
        },
        "test_scenes": 9,
        "questions": 5,
        "smoke": False,
        "command": "python bench/ablations.py",
        "commit": "abc",
        "machine": {"device": "a machine", "threads": 1, "torch": "2"},
    }


def test_the_gain_on_small_regions_is_held_against_that_on_large_ones():
    full = result(FULL, 0.9, 0.9)
    assert gap_verdict({FULL: full, "mask-pooling": result("mask-pooling", 0.5, 0.8)}).startswith("as in")
    assert gap_verdict({FULL: full, "mask-pooling": result("mask-pooling", 0.8, 0.5)}).startswith("NOT as")
    assert gap_verdict({FULL: full, "mask-pooling": result("mask-pooling", 0.7, 0.7)}).startswith("too close")
    assert gap_verdict({FULL: full}) is None


def test_a_change_that_the_paper_has_no_number_for_is_told_beyond_the_noise_only():
    assert change(Measured(0.3, 500), Measured(0.7, 500)) == "+40.0"
    assert change(Measured(0.7, 500), Measured(0.3, 500)) == "-40.0"
    assert change(Measured(0.5, 50), Measured(0.52, 50)) == "too close to tell (+2.0)"
    assert change(None, Measured(0.5, 50)) == "not measured"


def test_what_learned_the_same_tells_how_far_runs_differ():
    """Where nothing taught local infusion, rows that differ in it alone are two runs of one thing."""
    shares = dict(zip((name for pair in TWINS for name in pair), (0.70, 0.73, 0.50, 0.54), strict=True))
    ran = {name: result(name, share, share) for name, share in shares.items()}
    assert spread(ran, CATEGORY) == 0, "they learned something"
    for each in ran.values():
        each["recipe"]["steps"] = [0, 0]
    assert spread(ran, CATEGORY) == pytest.approx(((0.03**2 + 0.04**2) / 2) ** 0.5)
    assert spread(ran, NEIGHBOURS) == 0, "never asked"
    # 6.5 points are more than 2 standard errors of 2000 answers (4.3), and less than twice 3.5.
    assert verdict(Measured(0.600, 1000), Measured(0.665, 1000)) == "as in the paper (+6.5)"
    assert verdict(Measured(0.600, 1000), Measured(0.665, 1000), 0.035).startswith("too close")
    assert change(Measured(0.600, 1000), Measured(0.665, 1000), 0.035).startswith("too close")


def test_the_page_claims_nothing_of_local_infusion_that_has_not_learned():
    taught = [result(name, 0.6, 0.7) for name in VARIANTS]
    silent = [each | {"recipe": each["recipe"] | {"steps": [0, 0]}} for each in taught]
    pairs = [f"| {VARIANTS[worse].title} < {VARIANTS[better].title} |" for worse, better in TWINS]
    for results, told in ((taught, False), (silent, True)):
        page = list(lines(results))
        rows = [line for line in page if any(pair in line for pair in pairs)]
        assert len(rows) == 2 and all(("not measured" in row.split("|")[3]) == told for row in rows)
        assert any("Local infusion was not measured" in line for line in page) == told


def test_one_command_is_listed_once_with_all_its_commits():
    results = [result(FULL, 0.6, 0.7), result("no-local", 0.6, 0.7) | {"commit": "def"}]
    last = list(lines(results))[-1]
    assert last == "- `python bench/ablations.py`, commit abc and def, on a machine (1 thread, torch 2)"


def test_the_page_has_every_variant_and_the_plot_is_a_picture():
    results = [result(name, 0.6, 0.7) for name in VARIANTS]
    page = "\n".join(lines(results))
    for each in results:
        assert each["title"] in page
    assert (
        "7 steps on attributes, 6 steps on frames, 2 steps on sides, 8 steps of reading, "
        "5 steps of infusion, 10 + 10 steps of 4 scenes"
    ) in page
    assert "60.0 ± 1.5" in page and all(measure.title in page for measure in MEASURES)
    assert ElementTree.fromstring("\n".join(plot(results))).tag.endswith("svg")  # noqa: S314 (our own text)
