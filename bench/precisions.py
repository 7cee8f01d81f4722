# SPDX-License-Identifier: Apache-2.0
"""What a precision costs in answers: the shapes models exported in each, scored on the same test scenes.

Every export runs under ONNX Runtime and is compared with the checkpoint under torch, question by question on
the same scenes; without ``--model`` only the tracker is. Prints a table, and writes JSON and a section of the
page of benchmarks::

    python bench/precisions.py --out bench/results/precisions.json --page docs/benchmarks.md

Exit status: 1 if a precision loses more than it may, which the page marks; else 0.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from backends import ROOT, surroundings
from sections import write_section

from pixelrefer_ros.cli import main as pixelrefer
from pixelrefer_ros.training.evaluate import TRACKER_GOALS, answer_cells, evaluate_shapes, tracker_cell

MARKS = ("<!-- precisions: begin -->", "<!-- precisions: end -->")
CHECKPOINT = "checkpoint, torch fp32"
LANGUAGE_MAY_LOSE = {"fp32": 0.0, "fp16": 1.0, "int8": 1.0, "int4": 2.0}
"""Points of all answers. ONNX Runtime computes no bfloat16 on a CPU."""
TRACKER_PRECISIONS = ("fp32", "fp16")


def language_scores(model: Path, exports: Path, scenes: int, questions: int) -> dict[str, dict[str, Any]]:
    """By precision: right answers, all answers, and the table's rows of seen combinations."""
    found = {}
    for name, folder in exported(model, exports / "language", LANGUAGE_MAY_LOSE).items():
        report = evaluate_shapes(folder, None, seed=0, scenes=scenes, questions=questions)
        rows = [row for which in ("seen", "unseen") for row in report["answers"][which]["rows"].values()]
        found[name] = {
            "right": sum(row["correct"] for row in rows),
            "answers": sum(row["count"] for row in rows),
            "rows": {row: cell[0] for row, cell in answer_cells(report["answers"]["seen"]["rows"]).items()},
        }
        print(name, found[name], flush=True)
    return found


def tracker_scores(model: Path, exports: Path, scenes: int) -> dict[str, dict[str, Any]]:
    """J and J&F by precision."""
    found = {}
    for name, folder in exported(model, exports / "tracker", TRACKER_PRECISIONS).items():
        report = evaluate_shapes(None, folder, seed=0, scenes=1, tracker_scenes=scenes)
        rows = [row for row in TRACKER_GOALS if not row.startswith("category")]
        found[name] = {row: tracker_cell(report, row)[0] for row in rows}
        print(name, found[name], flush=True)
    return found


def exported(model: Path, out: Path, precisions: Iterable[str]) -> dict[str, Path]:
    """The checkpoint and its exports, made as a user would, by name."""
    folders = {CHECKPOINT: model}
    for precision in precisions:
        folders[precision] = out / precision
        if code := pixelrefer(
            ["export", str(model), "--out", str(out / precision), "--precision", precision]
        ):
            raise SystemExit(f"pixelrefer export {model} --precision {precision} ended with {code}")
    return folders


def gained(language: dict[str, dict[str, Any]], name: str) -> float:
    """Points of all answers that a precision has more than the checkpoint; negative: it has fewer."""
    mine, whole = language[name], language[CHECKPOINT]
    return 100 * (mine["right"] / mine["answers"] - whole["right"] / whole["answers"])


def loses_too_much(language: dict[str, dict[str, Any]]) -> list[str]:
    """The precisions that lose more points than `LANGUAGE_MAY_LOSE` lets them."""
    rounding = 1e-9  # of floating point: far less than one answer of a million
    return [
        name
        for name, most in LANGUAGE_MAY_LOSE.items()
        if name in language and gained(language, name) < -most - rounding
    ]


def page(result: dict[str, Any]) -> str:
    """The section of the page of benchmarks."""
    language, tracker = result["language"], result["tracker"]
    lines = [
        MARKS[0],
        "## What a precision costs in answers",
        "",
        f"The same test scenes for each, {result['tracker_scenes']} in each kind of clip. Exports run under "
        "ONNX Runtime on the CPU.",
    ]
    if language:
        whole = language[CHECKPOINT]
        lines += [
            "",
            f"{whole['answers']} questions of all kinds, on seen and unseen combinations:",
            "",
            "| PixelRefer-Lite | right | points gained or lost | may lose |",
            "|---|---|---|---|",
        ]
    failed = loses_too_much(language)
    for name, scores in language.items():
        share = 100 * scores["right"] / scores["answers"]
        goal = LANGUAGE_MAY_LOSE.get(name)
        limit = ("" if goal is None else f"{goal:g}") + (", **loses more**" if name in failed else "")
        lines.append(f"| {name} | {share:.1f} % | {gained(language, name):+.1f} | {limit} |")
    rows = list(tracker[CHECKPOINT])
    lines += ["", f"| SAM 2 | {' | '.join(rows)} |", f"|---|{'---|' * len(rows)}"]
    for name, scores in tracker.items():
        cells = ("-" if scores[row] is None else f"{scores[row]:.3f}" for row in rows)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"`{result['command']}` at commit {result['commit']}; {result['machine']}; {result['versions']}.",
        MARKS[1],
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Export, score, print, write; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="PixelRefer-Lite, folder of a checkpoint")
    parser.add_argument("--tracker-model", type=Path, default=ROOT / "models/sam2-shapes")
    parser.add_argument("--scenes", type=int, default=50, help="of seen, and as many of unseen combinations")
    parser.add_argument("--questions", type=int, default=10, help="per scene")
    parser.add_argument("--tracker-scenes", type=int, default=8)
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--page", type=Path, help="Markdown page whose section is replaced")
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="pixelrefer-") as exports:
        result: dict[str, Any] = {
            "command": shlex.join(["python", "bench/precisions.py", *sys.argv[1:]]),
            "tracker_scenes": args.tracker_scenes,
            "language": language_scores(args.model, Path(exports), args.scenes, args.questions)
            if args.model
            else {},
            "tracker": tracker_scores(args.tracker_model, Path(exports), args.tracker_scenes),
            **surroundings(before),
        }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if args.page:
        write_section(args.page, page(result))
    print(page(result))
    failed = loses_too_much(result["language"])
    for name in failed:
        lost = -gained(result["language"], name)
        print(f"{name} loses {lost:.2f} points; it may lose {LANGUAGE_MAY_LOSE[name]:g}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
