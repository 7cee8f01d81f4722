# SPDX-License-Identifier: Apache-2.0
"""The full 2B shape is exported, and TensorRT RTX compiles each graph for GPUs that need not be there.

Of each precision one export, and of it, for each target, one build of each graph, whose attention must be
fused. Every step is a process of its own, so that its peak memory is its own; weights are random. A step that
fails, runs too long, or leaves the machine with too little memory, is ended, and the report says so.

    python bench/real_shape_compile.py [--precision bf16 fp16] [--target 8.6 8.9 12.0] [--limit 900]
        [--folder DIR] [--keep] [--out FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # before torch is imported, here and in each step

from machine import available_memory, check_room, commit, machine
from random_2b import DISK_BYTES, write_checkpoint

from pixelrefer_ros.errors import BackendError
from pixelrefer_ros.runtime import read_manifest

GRAPHS = ("vision", "objects", "embed", "decoder")
PRECISIONS = ("bf16", "fp16")
TARGETS = ("8.6", "8.9", "12.0")
WORKSPACE_MB = 2048
EXPORT_MEMORY = 10 << 30
LEAST_MEMORY = 1 << 30
"""Bytes that others on the machine are left with."""


def main() -> int:
    """Writes the weights, runs the steps, reports, and cleans up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument(
        "--target", nargs="+", type=capability, default=TARGETS, help="compute capabilities, like 8.9"
    )
    parser.add_argument("--limit", type=float, default=900, help="seconds that one step may take")
    parser.add_argument("--folder", type=Path, help="where everything goes; a temporary folder by default")
    parser.add_argument("--keep", action="store_true", help="leave what it wrote")
    parser.add_argument("--out", type=Path, default=Path("bench/results/real_shape_compile.json"))
    parser.add_argument("--build-only", choices=GRAPHS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.build_only:
        try:
            print(json.dumps(build(args.folder, args.build_only, *args.target)))
        except BackendError as error:
            print(json.dumps({"ended": str(error)}))
        return 0

    folder = args.folder or Path(tempfile.mkdtemp(prefix="pixelrefer-2b-"))
    folder.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "what": "PixelRefer-Lite-2B shape, random weights",
        # The folder is of this machine only.
        "command": " ".join(
            ["python", "bench/real_shape_compile.py"]
            + ["DIR" if argument == str(args.folder) else argument for argument in sys.argv[1:]]
        ),
        "commit": commit(),
        "machine": machine(),
        "load_average_before": os.getloadavg()[0],
        "workspace_mb": WORKSPACE_MB,
        "fused": True,
        "precisions": {},
    }
    try:
        exports = len(args.precision) if args.keep else 1  # on the disk at one time
        check_room(folder, disk=(1 + exports) * DISK_BYTES, memory=EXPORT_MEMORY)
        report["parameters"] = write_checkpoint(folder / "checkpoint")
        for precision in args.precision:
            report["precisions"][precision] = measure(folder, precision, args.target, args.limit)
            if not args.keep:
                shutil.rmtree(folder / f"exported-{precision}", ignore_errors=True)
    finally:
        if not args.keep:  # a folder that was given may hold other things
            for name in ("checkpoint", *(f"exported-{precision}" for precision in args.precision)):
                shutil.rmtree(folder / name, ignore_errors=True)
            with contextlib.suppress(OSError):
                folder.rmdir()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"written to {args.out}")
    return 0


def capability(text: str) -> str:
    """A compute capability as it is written, for argparse."""
    if not re.fullmatch(r"\d{1,2}\.\d", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no compute capability: give one like 8.9")
    return text


def measure(folder: Path, precision: str, targets: Sequence[str], limit_s: float) -> dict[str, Any]:
    """Exports the checkpoint in a folder, and builds the graphs; what each step took, by name."""
    exported = folder / f"exported-{precision}"
    command = [sys.executable, "-m", "pixelrefer_ros.cli", "export", str(folder / "checkpoint")]
    result: dict[str, Any] = {
        "export": step([*command, "--out", str(exported), "--precision", precision], limit_s)
    }
    said(f"export {precision}", result["export"])
    if "ended" in result["export"]:
        return result
    result["bytes"] = {
        graph.name: sum(
            (exported / name).stat().st_size for name in (graph.file, *(d.file for d in graph.data))
        )
        for graph in read_manifest(exported).graphs.values()
    }
    if find_spec("tensorrt_rtx") is None:
        return result | {"builds": "tensorrt_rtx is not installed"}
    import tensorrt_rtx

    result |= {"tensorrt_rtx": tensorrt_rtx.__version__, "builds": {}}
    for target in targets:
        builds = result["builds"][target] = {}
        for name in GRAPHS:
            command = [sys.executable, __file__, "--folder", str(exported)]
            builds[name] = step([*command, "--build-only", name, "--target", target], limit_s)
            said(f"{name} {precision} {target}", builds[name])
    return result


def step(command: list[str], limit_s: float) -> dict[str, Any]:
    """Runs a process: seconds, peak memory, what its last line says as JSON; "ended" and why if it failed."""
    start = time.perf_counter()
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([sys.path[0], os.environ.get("PYTHONPATH", "")])
    }
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(command, stdout=out, env=environment)
        ended = ""
        while True:
            # Waited for by hand: the usage of one child is wanted, and Popen forgets it.
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            if not ended and time.perf_counter() - start > limit_s:
                ended = f"not done after {limit_s:g} s"
                child.kill()
            elif not ended and available_memory() < LEAST_MEMORY:
                ended = f"the machine had less than {LEAST_MEMORY >> 30} GiB of memory left"
                child.kill()
            time.sleep(0.2)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        lines = out.read().splitlines()
    if child.returncode and not ended:
        ended = f"exit status {child.returncode}"
    try:
        told = json.loads(lines[-1]) if lines else {}
    except ValueError:
        told = {}
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss_gib": usage.ru_maxrss / (1 << 20),
        **(told if isinstance(told, dict) else {}),
        **({"ended": ended} if ended else {}),
    }


def said(name: str, values: dict[str, Any]) -> None:
    """Prints a step's line."""
    rest = {key: value for key, value in values.items() if not isinstance(value, float)}
    print(
        f"{name:<20}{values['seconds']:8.1f} s {values['cpu_seconds']:8.1f} s of CPU "
        f"{values['peak_rss_gib']:7.2f} GiB  {rest or ''}",
        flush=True,
    )


def build(exported: Path, name: str, target: str) -> dict[str, Any]:
    """Builds one graph, or fails where attention has no fused kernel; the plan's bytes, and its layers."""
    import tensorrt_rtx
    from pixelrefer_ros.engines import BuildOptions, build_engine

    manifest = read_manifest(exported)
    graph = manifest.graphs[name]
    major, minor = map(int, target.split("."))
    options = BuildOptions(workspace_mb=WORKSPACE_MB, compute_capabilities=[(major, minor)], fused=True)
    built = build_engine(
        tensorrt_rtx,
        exported,
        graph,
        precision=manifest.precision,
        profiles=graph.profiles,
        options=options,
    )
    kinds = ("ATTENTION_OUTPUT", "KV_CACHE_UPDATE", "ROTARY_EMBEDDING")
    layers = {kind: built.layers[kind] for kind in kinds if built.layers[kind]}
    return {"plan_bytes": built.plan_bytes, "layers": layers, "notes": list(built.notes)}


if __name__ == "__main__":
    raise SystemExit(main())
