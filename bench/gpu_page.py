# SPDX-License-Identifier: Apache-2.0
"""What `gpu.py` measured, held against the goals, as a section of the page of benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

MARKS = ("<!-- gpu: begin -->", "<!-- gpu: end -->")
BACKENDS = {"torch": "torch", "tensorrt": "TensorRT"}
"""In the order of the table."""
MEASURED = "measured"
MOST_TIMES_FLOOR, MOST_OBJECT_MS, MOST_FIRST_MS, MOST_GB, LEAST_FRAMES = 1.4, 6.0, 12.0, 4.5, 120.0


@dataclass(frozen=True)
class Goal:
    """One goal on an H200.

    Attributes:
        part: of `gpu.py`, whose values tell.
        shape: of which model.
        what: is measured.
        goal: for the table.
        verdict: the values of the part in a few words, and whether the goal is met.
    """

    part: str
    shape: str
    what: str
    goal: str
    verdict: Callable[[dict[str, Any]], tuple[str, bool]]


def _times(times: dict[str, Any], watched: dict[str, Any] | None = None) -> str:
    """Median and 90th percentile, and for how long the GPU worked in a mean call, if it was watched."""
    gpu_ms = (watched or times).get("gpu_ms")
    works = f"; GPU busy {gpu_ms:.2f}" if gpu_ms else ""
    return f"{times['median_ms']:.2f} ms (p90 {times['p90_ms']:.2f}{works})"


def _token(values: dict[str, Any]) -> tuple[str, bool]:
    token, floor = values["token"]["median_ms"], values["floor_ms"]
    nominal = values["nominal_floor_ms"]
    by_clock = f" ({nominal:.2f} by the memory's clock and width)" if nominal else ""
    times = _times(values["token"], values["step"])
    return f"{times}: {token / floor:.1f} x {floor:.2f} ms{by_clock}", token <= MOST_TIMES_FLOOR * floor


def _objects(values: dict[str, Any]) -> tuple[str, bool]:
    times = values["object_tokens"]
    return _times(times), times["median_ms"] < MOST_OBJECT_MS


def _first(values: dict[str, Any]) -> tuple[str, bool]:
    times, given = values["first_token"], values["first_token_given_tokens"]["median_ms"]
    text = f"{_times(times)}; {given:.2f} ms where the object's tokens are there"
    return text, times["median_ms"] < MOST_FIRST_MS


def _memory(values: dict[str, Any]) -> tuple[str, bool]:
    used = values["memory"]["device_gb"]
    return f"{used:.2f} GB (torch's tensors {values['memory']['torch_gb']:.2f})", used <= MOST_GB


def _frames(values: dict[str, Any]) -> tuple[str, bool]:
    rate = values["frames_per_s"]
    return f"{rate:.0f} frames/s, {_times(values['frame'])}", rate >= LEAST_FRAMES


def _goals() -> Iterator[Goal]:
    for shape, floor in (("2b", "0.72"), ("7b", "3.5")):
        name = shape.upper()
        yield Goal(
            "decode",
            shape,
            f"{name}: a further token, after about 1000 positions",
            f"at most {MOST_TIMES_FLOOR:g} x the floor of the bandwidth ({floor} ms)",
            _token,
        )
        yield Goal(
            "objects",
            shape,
            f"{name}: tokens of one object in a 640x480 frame",
            f"under {MOST_OBJECT_MS:g} ms",
            _objects,
        )
        yield Goal(
            "objects",
            shape,
            f"{name}: first token, from a frame nobody has looked at",
            f"under {MOST_FIRST_MS:g} ms",
            _first,
        )
    yield Goal("decode", "2b", "2B: peak memory", f"at most {MOST_GB:g} GB", _memory)
    yield Goal(
        "tracker",
        "sam2.1-tiny",
        "SAM 2.1 tiny, 512 px, 4 objects",
        f"at least {LEAST_FRAMES:g} frames/s",
        _frames,
    )


GOALS = tuple(_goals())


Rows = dict[tuple[str, str, str], dict[str, Any]]
"""What was measured, or why not, by part, shape and backend."""


def page(report: dict[str, Any]) -> str:
    """The section: a table of goals, and what was not measured and why.

    Args:
        report: as `gpu.py` writes it.
    """
    rows = {(row["part"], row["shape"], row["backend"]): row for row in report["parts"]}
    measured = [
        backend
        for backend in BACKENDS
        if any(row["status"] == MEASURED for (_, _, of), row in rows.items() if of == backend)
    ]
    lines = [*_results(report, rows, measured), ""] if measured else [*_nothing(rows), ""]
    return "\n".join([MARKS[0], *lines, MARKS[1]]) + "\n"


def _nothing(rows: Rows) -> Iterator[str]:
    """The goals alone."""
    yield "## Not measured here"
    yield ""
    yield (
        "The published shapes on a GPU, with random weights in bfloat16: no number on these pages is from a "
        "GPU, neither under torch nor under [TensorRT](engines.md). The goals are for an H200:"
    )
    yield ""
    yield "| not measured | goal |"
    yield "|---|---|"
    for goal in GOALS:
        yield f"| {goal.what} | {goal.goal} |"
    yield ""
    reasons = sorted({row["reason"] for row in rows.values()})
    yield f"Why not: {'; '.join(reasons)}. `python bench/gpu.py` measures them on a machine that has one."


def _results(report: dict[str, Any], rows: Rows, measured: list[str]) -> Iterator[str]:
    found = report["environment"]
    yield "## The published shapes on a GPU"
    yield ""
    yield (
        f"Random weights in bfloat16 on {found['gpu']}; the goals are for an H200. Times are medians; GPU "
        "busy: for how long of a call kernels ran. The floor is the time in which the language model's "
        "weights can be read once, at the bandwidth that a copy had in the same run. Memory is all that was "
        "taken on the card."
    )
    yield ""
    yield f"| | goal | {' | '.join(BACKENDS[backend] for backend in measured)} |"
    yield f"|---|---|{'---|' * len(measured)}"
    for goal in GOALS:
        cells = [_cell(goal, rows.get((goal.part, goal.shape, backend))) for backend in measured]
        yield f"| {goal.what} | {goal.goal} | {' | '.join(cells)} |"
    yield ""
    for (part, shape, backend), row in rows.items():
        if part == "decode" and row.get("values", {}).get("logits_differ_from_torch") is not None:
            apart = row["values"]["logits_differ_from_torch"]
            yield f"{BACKENDS[backend]}, {shape.upper()}: logits differ from torch's by {apart:.1%}.  "
    yield ""
    yield "**Not measured here:**"
    yield ""
    yield from _missing(rows)
    yield ""
    yield (
        f"`{report['command']}` at commit {found['commit'][:12] or 'unknown'}; {found['cpu']}, "
        f"{found['cores']} cores; Python {found['python']}, torch {found['torch']}, "
        f"transformers {found['transformers']}."
    )


def _cell(goal: Goal, row: dict[str, Any] | None) -> str:
    if row is None or row["status"] != MEASURED:
        return "not measured"
    text, met = goal.verdict(row["values"])
    return f"{text}: {'met' if met else '**not met**'}"


def _missing(rows: Rows) -> Iterator[str]:
    """A line for each backend and reason."""
    missing: dict[tuple[str, str], list[str]] = {}
    for backend in BACKENDS:
        for goal in GOALS:
            row = rows.get((goal.part, goal.shape, backend), {"status": "", "reason": "not asked for"})
            if row["status"] != MEASURED:
                missing.setdefault((BACKENDS[backend], row["reason"]), []).append(goal.what)
    for (backend, reason), things in missing.items():
        yield f"- {backend} ({reason}): {'; '.join(things)}."
    if not missing:
        yield "- Nothing of these."
