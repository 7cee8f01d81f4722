# SPDX-License-Identifier: Apache-2.0
"""The published 2B and 7B shapes and SAM 2.1 tiny on a GPU, random weights in bfloat16, against the goals.

Made for a GPU that is at hand for minutes: each job is a process, each result is written as soon as it is
there, and what there was no time for is listed as not measured. It needs a checkout and a Python with torch
for CUDA, transformers, onnxscript, onnxruntime and OpenCV; no ROS, no colcon, no network. TensorRT is
measured where the package ``tensorrt`` is installed::

    python bench/gpu.py --shape 2b 7b --minutes 8 --out bench/results/gpu.json

and, from that file, on any machine::

    python bench/gpu.py --from bench/results/gpu.json --page docs/benchmarks.md

``--smoke`` runs every part on the CPU with models of no size: it shows that the benchmark runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_jobs import LANGUAGE, NO_TIME, SHAPES, TRACKER, Job, Report, lines_of, plan
from gpu_page import BACKENDS, page
from sections import write_section

HERE = Path(__file__).resolve().parent
LEAST_S = 20.0
"""Seconds in which no job gets anywhere: it is not begun with less."""
NO_GPU = "torch sees no CUDA GPU here"


class Run:
    """One run of all jobs within a bound of time."""

    def __init__(self, report: Report, *, folder: Path, end: float, options: Sequence[str]) -> None:
        """Nothing runs yet.

        Args:
            report: takes the results.
            folder: what jobs leave for each other.
            end: of the time, by `time.monotonic`.
            options: for every job.
        """
        self._report, self._folder, self._end, self._options = report, folder, end, options

    def do(self, job: Job) -> None:
        """Does a job, or notes why not."""
        if missing := self._lacks(job):
            self._report.missing(job, missing)
        elif job.backend != "tensorrt" or self._child(job, "--build"):
            self._child(job)
            # Exports and engines of the larger shapes together would fill a disk.
            shutil.rmtree(self._folder / f"{job.what}-{job.shape}-exported", ignore_errors=True)

    def _lacks(self, job: Job) -> str:
        """What the machine is known to lack for a job; the first job finds out."""
        found = self._report.environment
        if found and not found["gpu"] and not self._report.fields["smoke"]:
            return NO_GPU
        if found and not found["tensorrt"] and job.backend == "tensorrt":
            return "the Python package tensorrt is not installed"
        return ""

    def _child(self, job: Job, *more: str) -> bool:
        """Runs a job's process and notes what it says; True if it ended well."""
        if (left := self._end - time.monotonic()) < LEAST_S:
            self._report.missing(job, NO_TIME)
            return False
        command = [sys.executable, str(HERE / "gpu_work.py"), job.what, "--shape", job.shape]
        command += ["--backend", job.backend, "--folder", str(self._folder), *self._options, *more]
        for line in lines_of([*command, "--parts", *job.parts], left):
            self._take(job, line)
        if missing := self._lacks(job) or line["ended"]:
            self._report.missing(job, missing, failed=missing not in (NO_GPU, NO_TIME))
        return not missing

    def _take(self, job: Job, line: dict[str, Any]) -> None:
        fields = self._report.fields
        if "environment" in line:
            self._report.begin(line["environment"])
        elif "failed" in line:
            part = line.get("part")
            self._report.missing(job, line["failed"], part=part if part in job.parts else None, failed=True)
        elif line.get("part") in job.parts:
            self._report.measured(job, line["part"], line["values"])
        elif "part" in line:
            fields["builds"][f"{job.what} {job.shape}"] = line["values"]
            self._report.write()


def main() -> None:
    """Measures, or reads what was measured; prints, writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=LANGUAGE + TRACKER, default=LANGUAGE + TRACKER)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["2b"])
    parser.add_argument("--backend", nargs="+", choices=tuple(BACKENDS), default=list(BACKENDS))
    parser.add_argument(
        "--minutes", type=float, default=8, help="for all of it; what is left then is not measured"
    )
    parser.add_argument("--profile", help="of TensorRT engines; by the GPU if not given")
    parser.add_argument(
        "--folder", type=Path, help="where exports and engines go; a temporary folder by default"
    )
    parser.add_argument("--smoke", action="store_true", help="on the CPU, models of no size, torch alone")
    parser.add_argument(
        "--out", type=Path, help="JSON; bench/results/gpu.json by default, out/gpu.json for --smoke"
    )
    parser.add_argument("--from", dest="source", type=Path, help="measure nothing: read this JSON")
    parser.add_argument("--page", type=Path, help="Markdown page whose section is replaced")
    args = parser.parse_args()
    if args.smoke and (args.page or args.source):
        parser.error("--smoke measures nothing that belongs on a page: leave --page and --from out")
    report = json.loads(args.source.read_text(encoding="utf-8")) if args.source else measure(args)
    if report["smoke"]:
        if args.source:
            parser.error(f"{args.source} is of --smoke, which measures nothing: give a file of a GPU")
        return
    print(page(report))
    if args.page:
        write_section(args.page, page(report))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Runs the jobs; the report, which is in the file by then."""
    end = time.monotonic() + 60 * args.minutes
    shapes, backends = (["smoke"], ["torch"]) if args.smoke else (args.shape, args.backend)
    jobs = plan(args.parts, shapes, backends, smoke=args.smoke)
    # No paths: they are of this machine.
    command = ["python bench/gpu.py", "--parts", *args.parts, "--shape", *shapes, "--backend", *backends]
    fields = {"command": " ".join([*command, "--minutes", f"{args.minutes:g}"]), "smoke": args.smoke}
    out = args.out or Path("out/gpu.json" if args.smoke else "bench/results/gpu.json")
    options = (["--smoke"] if args.smoke else []) + (["--profile", args.profile] if args.profile else [])
    with tempfile.TemporaryDirectory(prefix="pixelrefer-gpu-", dir=args.folder) as folder:
        report = Report(out, fields, jobs)
        run = Run(report, folder=Path(folder), end=end, options=options)
        for job in jobs:
            run.do(job)
            left = end - time.monotonic()
            print(f"{job.what} {job.shape} under {job.backend}: {left:.0f} s are left", file=sys.stderr)
    print(f"written to {out}", file=sys.stderr)
    return report.content()


if __name__ == "__main__":
    main()
