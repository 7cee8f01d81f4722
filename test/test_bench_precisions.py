# SPDX-License-Identifier: Apache-2.0
"""The benchmark of precisions fails, and says which one, when answers get worse than they may."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

import precisions

SURROUNDINGS = {"commit": "0", "machine": "none", "versions": "none"}
TRACKER = {name: {"J": 0.5} for name in (precisions.CHECKPOINT, "fp32", "fp16")}


def scores(**right: int) -> dict[str, dict[str, Any]]:
    """Right answers of 1000, by precision; the checkpoint has 800."""
    return {name: {"right": count, "answers": 1000} for name, count in right.items()} | {
        precisions.CHECKPOINT: {"right": 800, "answers": 1000}
    }


@pytest.mark.parametrize(
    ("right", "failing"),
    [
        ({"fp32": 800, "fp16": 790, "int8": 795, "int4": 780}, []),  # to the very point that each may lose
        ({"fp32": 799, "fp16": 789, "int8": 810, "int4": 779}, ["fp32", "fp16", "int4"]),
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
    monkeypatch.setattr(precisions, "language_scores", lambda *_: scores(**right))
    monkeypatch.setattr(precisions, "tracker_scores", lambda *_: TRACKER)
    monkeypatch.setattr(precisions, "surroundings", lambda _: SURROUNDINGS)
    monkeypatch.setattr(precisions.torch, "set_num_threads", lambda _: None)
    assert precisions.main() == (1 if failing else 0)
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.err.splitlines()] == failing
    marked = [line.split("|")[1].strip() for line in printed.out.splitlines() if "**loses more**" in line]
    assert sorted(marked) == sorted(failing)
