# SPDX-License-Identifier: Apache-2.0
"""The benchmark of precisions fails, and says which one, when answers get worse than they may."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

import precisions

SURROUNDINGS = {"commit": "0", "machine": "none", "versions": "none"}
TRACKER = {name: {"J": 0.5} for name in precisions.TRACKER_ROWS}


def scores(right: dict[str, int]) -> dict[str, dict[str, Any]]:
    """Right answers of 1000, by precision; the checkpoint has 800."""
    return {name: {"right": count, "answers": 1000} for name, count in right.items()} | {
        precisions.CHECKPOINT: {"right": 800, "answers": 1000}
    }


def without_models(
    monkeypatch: pytest.MonkeyPatch, language: dict[str, dict[str, Any]], commit: str = "0"
) -> None:
    """The scores as if they had been measured, in the order that they are asked for."""

    def asked(scores: dict[str, dict[str, Any]]) -> Callable[..., Iterator[tuple[str, dict[str, Any]]]]:
        return lambda *given: ((name, scores[name]) for name in given[-1] if name in scores)

    monkeypatch.setattr(precisions, "language_scores", asked(language))
    monkeypatch.setattr(precisions, "tracker_scores", asked(TRACKER))
    monkeypatch.setattr(precisions, "surroundings", lambda _: SURROUNDINGS | {"commit": commit})
    monkeypatch.setattr(precisions.torch, "set_num_threads", lambda _: None)


@pytest.mark.parametrize(
    ("right", "failing"),
    [
        ({"fp32": 800, "fp16": 790, "int8": 795, "int4": 780}, []),  # to the very point that each may lose
        ({"fp32": 799, "fp16": 789, "int8": 810, "int4": 779}, ["fp32", "fp16", "int4"]),
        ({"bf16": 790, "int8-fp16": 789, "int4-fp16": 780}, ["int8-fp16"]),
        ({}, []),
    ],
)
def test_precision_that_loses_more_than_it_may_is_named_and_fails(
    right: dict[str, int],
    failing: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["precisions.py", "--model", "somewhere"])
    without_models(monkeypatch, scores(right))
    assert precisions.main() == (1 if failing else 0)
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.err.splitlines()] == failing
    marked = [line.split("|")[1].strip() for line in printed.out.splitlines() if "**loses more**" in line]
    assert sorted(marked) == sorted(precisions.LABELS.get(name, name) for name in failing)


def test_rows_of_the_page_that_have_no_score_are_named_as_not_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["precisions.py", "--model", "somewhere"])
    without_models(monkeypatch, scores({"fp32": 800, "int4": 800}))
    precisions.main()
    lines = [
        line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if "not measured" in line
    ]
    assert lines == ["fp16", "bf16: the checkpoint in torch", "int8", *list(precisions.LABELS.values())[1:]]


def test_rows_may_be_added_with_the_run_that_measured_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "precisions.json", tmp_path / "page.md"
    places = ["--model", "somewhere", "--out", str(out), "--page", str(page)]
    monkeypatch.setattr(sys, "argv", ["precisions.py", *places])
    without_models(monkeypatch, scores({"fp32": 800}))
    precisions.main()
    added = scores({"bf16": 795, "int4-fp16": 785})
    without_models(monkeypatch, added, commit="1")
    monkeypatch.setattr(sys, "argv", ["precisions.py", *places, "--only", "bf16", "int4-fp16"])
    precisions.main()
    result = json.loads(out.read_text(encoding="utf-8"))
    assert {name: row["right"] for name, row in result["language"].items()} == {
        precisions.CHECKPOINT: 800,
        "fp32": 800,
        "bf16": 795,
        "int4-fp16": 785,
    }
    assert (result["commit"], [(run["commit"], run["rows"]) for run in result["later"]]) == (
        "0",
        [("1", ["bf16", "int4-fp16", "bf16"])],
    )
    text = page.read_text(encoding="utf-8")
    assert "| int4, activations in fp16 | 78.5 % | -1.5 | 2 |" in text
    assert "Added to it: bf16: the checkpoint in torch; int4, activations in fp16. `python" in text

    before = out.read_bytes()
    without_models(monkeypatch, added | {precisions.CHECKPOINT: {"right": 790, "answers": 1000}})
    with pytest.raises(SystemExit, match="measure all again"):
        precisions.main()
    assert out.read_bytes() == before
