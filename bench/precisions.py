# SPDX-License-Identifier: Apache-2.0
"""What a precision costs in answers: the shapes models exported in each, scored on the same test scenes.

Every export runs under ONNX Runtime and is compared with the checkpoint under torch, question by question on
the same scenes; without ``--model`` only the tracker is. ONNX Runtime computes no bfloat16 on a CPU: the
checkpoint in torch's bfloat16 stands for those graphs. Prints a table, and writes JSON and a section of the
page of benchmarks::

    python bench/precisions.py --out bench/results/precisions.json --page docs/benchmarks.md

``--only bf16 int4-fp16`` adds these rows to those that the JSON has; the checkpoint is scored again, and must
have the scores that it has there. The JSON is written after each row.

Exit status: 1 if a precision loses more than it may, which the page marks; else 0.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from backends import ROOT, surroundings
from sections import write_section

from pixelrefer_ros.cli import main as pixelrefer
from pixelrefer_ros.training.evaluate import TRACKER_GOALS, answer_cells, evaluate_shapes, tracker_cell

MARKS = ("<!-- precisions: begin -->", "<!-- precisions: end -->")
CHECKPOINT = "checkpoint, torch fp32"
IN_TORCH = {CHECKPOINT: "float32", "bf16": "bfloat16"}
"""Rows that are the checkpoint itself, and what it is loaded in."""
LANGUAGE_MAY_LOSE = {
    "fp32": 0.0,
    "fp16": 1.0,
    "bf16": 1.0,
    "int8": 1.0,
    "int8-fp16": 1.0,
    "int4": 2.0,
    "int4-fp16": 2.0,
    "fp32-int8-vision": 1.0,
    "int4-int8-vision": 2.0,
}
"""Points of all answers, by precision of the weights; after a dash that of the activations, else fp32, or
that the vision encoder multiplies integers."""
LANGUAGE_ROWS = (CHECKPOINT, *LANGUAGE_MAY_LOSE)
TRACKER_ROWS = (CHECKPOINT, "fp32", "fp16", "bf16")
LABELS = {
    "bf16": "bf16: the checkpoint in torch",
    "int8-fp16": "int8, activations in fp16",
    "int4-fp16": "int4, activations in fp16",
    "fp32-int8-vision": "fp32, vision in int8",
    "int4-int8-vision": "int4, vision in int8",
}
"""Names on the page, where they are not those of the rows."""

ALIKE = 0.005
"""By so much may the same scores differ, as a share: sums are taken in another order with more threads."""

Scored = Iterator[tuple[str, dict[str, Any]]]


def language_scores(model: Path, exports: Path, scenes: int, questions: int, names: Sequence[str]) -> Scored:
    """Name by name: right answers, all answers, and the table's rows of seen combinations."""
    for name in names:
        folder, dtype = runnable(model, exports / "language", name)
        report = evaluate_shapes(folder, None, seed=0, scenes=scenes, questions=questions, dtype=dtype)
        rows = [row for which in ("seen", "unseen") for row in report["answers"][which]["rows"].values()]
        yield (
            name,
            {
                "right": sum(row["correct"] for row in rows),
                "answers": sum(row["count"] for row in rows),
                "rows": {
                    row: cell[0] for row, cell in answer_cells(report["answers"]["seen"]["rows"]).items()
                },
            },
        )


def tracker_scores(model: Path, exports: Path, scenes: int, names: Sequence[str]) -> Scored:
    """Name by name: J and J&F."""
    for name in names:
        folder, dtype = runnable(model, exports / "tracker", name)
        report = evaluate_shapes(None, folder, seed=0, scenes=1, tracker_scenes=scenes, dtype=dtype)
        rows = [row for row in TRACKER_GOALS if not row.startswith("category")]
        yield name, {row: tracker_cell(report, row)[0] for row in rows}


def runnable(model: Path, out: Path, name: str) -> tuple[Path, str]:
    """The checkpoint or an export of it, made as a user would; and what a checkpoint is loaded in."""
    if name in IN_TORCH:
        return model, IN_TORCH[name]
    precision, _, rest = name.partition("-")
    more = {"": [], "fp16": ["--activations", "fp16"], "int8-vision": ["--int8-vision"]}[rest]
    options = ["--precision", precision, *more]
    if code := pixelrefer(["export", str(model), "--out", str(out / name), *options]):
        raise SystemExit(f"pixelrefer export {model} {shlex.join(options)} ended with {code}")
    return out / name, "float32"


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
        "ONNX Runtime on the CPU. It computes no bfloat16 there: the checkpoint in torch's bfloat16, also on "
        "the CPU, stands for bf16 graphs.",
    ]
    if language:
        lines += ["", *_language_table(language)]
    rows = list(tracker[CHECKPOINT])
    lines += ["", f"| SAM 2 | {' | '.join(rows)} |", f"|---|{'---|' * len(rows)}"]
    for name in TRACKER_ROWS:
        scores = tracker.get(name)
        cells = (
            "not measured" if scores is None else "-" if scores[row] is None else f"{scores[row]:.3f}"
            for row in rows
        )
        lines.append(f"| {LABELS.get(name, name)} | {' | '.join(cells)} |")
    lines += ["", _measured(result)]
    for later in result.get("later", ()):
        names = "; ".join(dict.fromkeys(LABELS.get(name, name) for name in later["rows"]))
        lines += ["", f"Added to it: {names}. {_measured(later)}"]
    lines.append(MARKS[1])
    return "\n".join(lines) + "\n"


def _language_table(language: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield f"{language[CHECKPOINT]['answers']} questions of all kinds, on seen and unseen combinations:"
    yield ""
    yield "| PixelRefer-Lite | right | points gained or lost | may lose |"
    yield "|---|---|---|---|"
    failed = loses_too_much(language)
    for name in LANGUAGE_ROWS:
        goal = LANGUAGE_MAY_LOSE.get(name)
        limit = ("" if goal is None else f"{goal:g}") + (", **loses more**" if name in failed else "")
        cells = "not measured | "
        if name in language:
            share = 100 * language[name]["right"] / language[name]["answers"]
            cells = f"{share:.1f} % | {gained(language, name):+.1f}"
        yield f"| {LABELS.get(name, name)} | {cells} | {limit} |"


def _measured(run: dict[str, Any]) -> str:
    return f"`{run['command']}` at commit {run['commit']}; {run['machine']}; {run['versions']}."


def add_to(
    table: dict[str, dict[str, Any]], scores: Scored, later: dict[str, Any] | None, save: Callable[[], None]
) -> None:
    """Puts scores into a table as they come.

    Args:
        table: of the result.
        scores: by name.
        later: a run that adds to what was there; None for a run of its own.
        save: called after each.

    Raises:
        SystemExit: the checkpoint's scores are others than were there.
    """
    for name, found in scores:
        print(name, found, flush=True)
        if later is not None and name == CHECKPOINT:
            if not alike(found, table[name]):
                raise SystemExit(
                    f"the checkpoint has {found} now, and {table[name]} in the file: the model or the exam "
                    "is another; measure all again, without --only"
                )
            continue
        table[name] = found
        if later is not None:
            later["rows"].append(name)
        save()


def alike(found: dict[str, Any], known: dict[str, Any]) -> bool:
    """Whether two scores of one table are those of the same model on the same scenes."""
    if "answers" in found:
        same = found["answers"] == known["answers"]
        return same and abs(found["right"] - known["right"]) <= ALIKE * known["answers"]
    return all(abs((found[row] or 0.0) - (known[row] or 0.0)) <= ALIKE for row in known)


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
    parser.add_argument("--only", nargs="+", choices=LANGUAGE_ROWS[1:], help="add these rows to --out's")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of torch and ONNX Runtime")
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--page", type=Path, help="Markdown page whose section is replaced")
    args = parser.parse_args()
    if args.only and not (args.out and args.out.is_file()):
        parser.error("--only adds to the file of --out, which must be there")
    torch.set_num_threads(args.threads)
    before = os.getloadavg()[0]
    this_run: dict[str, Any] = {"command": shlex.join(["python", "bench/precisions.py", *sys.argv[1:]])}
    result: dict[str, Any] = {"tracker_scenes": args.tracker_scenes, "language": {}, "tracker": {}}
    if args.only:
        result = json.loads(args.out.read_text(encoding="utf-8"))
        this_run["rows"] = []

    def save() -> None:
        this_run.update(surroundings(before))
        earlier = [run for run in result.get("later", ()) if run is not this_run]
        result.update({"later": [*earlier, this_run]} if args.only else this_run)
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        if args.page and result["tracker"]:
            write_section(args.page, page(result))

    with tempfile.TemporaryDirectory(prefix="pixelrefer-") as exports:
        folder, later = Path(exports), this_run if args.only else None
        wanted = (CHECKPOINT, *(args.only or LANGUAGE_ROWS))
        if args.model and (names := [name for name in LANGUAGE_ROWS if name in wanted]):
            scores = language_scores(args.model, folder, args.scenes, args.questions, names)
            add_to(result["language"], scores, later, save)
        if len(names := [name for name in TRACKER_ROWS if name in wanted]) > 1:
            scores = tracker_scores(args.tracker_model, folder, args.tracker_scenes, names)
            add_to(result["tracker"], scores, later, save)
    print(page(result))
    failed = loses_too_much(result["language"])
    for name in failed:
        lost = -gained(result["language"], name)
        print(f"{name} loses {lost:.2f} points; it may lose {LANGUAGE_MAY_LOSE[name]:g}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
