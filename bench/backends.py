# SPDX-License-Identifier: Apache-2.0
"""The language side under torch eager, torch.compile and ONNX Runtime: ratios, in one run.

A random model of middle size: vision 12 layers x 384, language 8 layers x 512, vocabulary 32k. The backends
take turns, so that whatever else the machine does meets all of them. Printed are medians over the turns, and
ratios are medians of the ratios within a turn::

    python bench/backends.py --out bench/results/backends_2.json --page docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import torch  # noqa: E402
from machine import commit  # noqa: E402
from mid_size import (  # noqa: E402
    INT8_VISION,
    LANGUAGE,
    MASK_NUM,
    QUESTION,
    CompiledTorch,
    exported,
    random_network,
)
from sections import print_and_write, write_section  # noqa: E402

from pixelrefer_ros.model import RegionNetwork  # noqa: E402

STAGES = {
    "object tokens": "ms: one object of a 640x480 frame, the frame's global features given",
    "first token": f"ms: {len(QUESTION)} positions, the object's tokens given",
    "decoding": "tokens/s",
}
MARKS = ("<!-- backends {threads}: begin -->", "<!-- backends {threads}: end -->")


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes, s."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def turn(network: RegionNetwork, decoder: Any, tokens: int) -> dict[str, float]:
    """One measurement of every stage, in the units of `STAGES`."""
    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    mask = np.zeros((480, 640), dtype=bool)
    mask[140:260, 200:330] = True
    whole = network.encode_global(frame)
    objects = seconds(lambda: network.encode_objects(frame, [mask], whole))
    shown = torch.randn(MASK_NUM, LANGUAGE["hidden_size"])  # other ones each time: no prefix is used again
    start = time.perf_counter()
    batch = decoder.batch()
    logits = batch.add(network.prompt_embeddings(QUESTION, [shown]))
    first = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(tokens):
        logits = batch.step([int(logits.argmax())])
    decoding = tokens / (time.perf_counter() - start)
    batch.close()
    return {"object tokens": objects * 1e3, "first token": first * 1e3, "decoding": decoding}


def measure(turns: int, tokens: int, threads: int, compile_torch: bool) -> dict[str, Any]:
    """Medians of every backend and their ratios to torch eager."""
    torch.set_num_threads(threads)
    eager = random_network()
    networks: dict[str, RegionNetwork] = {"torch eager": eager}
    if compile_torch:
        networks["torch.compile"] = CompiledTorch(eager)
    networks |= exported(eager, threads)
    decoders = {name: network.decoder() for name, network in networks.items()}
    for name, network in networks.items():  # compiles, and fills caches
        turn(network, decoders[name], 4)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in networks}
    for _ in range(turns):
        for name, network in networks.items():
            found[name].append(turn(network, decoders[name], tokens))
    return {
        name: summary(runs, found["torch eager"], found.get("onnxruntime fp32", []))
        for name, runs in found.items()
    }


def summary(
    runs: list[dict[str, float]], eager: list[dict[str, float]], fp32: list[dict[str, float]]
) -> dict[str, Any]:
    """Medians, and how many times as fast as torch eager (and decoding as ONNX Runtime in float32)."""

    def ratio(stage: str, others: list[dict[str, float]]) -> float:
        faster = 1 if stage == "decoding" else -1
        return statistics.median(
            (run[stage] / other[stage]) ** faster for run, other in zip(runs, others, strict=True)
        )

    return {
        "median": {stage: round(statistics.median(run[stage] for run in runs), 1) for stage in STAGES},
        "times torch eager": {stage: round(ratio(stage, eager), 2) for stage in STAGES},
        "decoding, times onnxruntime fp32": round(ratio("decoding", fp32), 2),
    }


def page(result: dict[str, Any]) -> str:
    """The section of the page of benchmarks."""
    lines = [
        MARKS[0].format(**result),
        f"## Backends of the language side, threads: {result['threads']}",
        "",
        "A random model: vision 12 layers x 384, language 8 layers x 512, vocabulary 32k, float32 unless "
        "it says otherwise. The backends take turns in one run; in brackets, how many times as fast as "
        "torch eager.",
        "",
        "| backend | object tokens, ms | first token, ms | decoding, tokens/s |",
        "|---|---|---|---|",
    ]
    for name, numbers in result["backends"].items():
        cells = [
            f"{numbers['median'][stage]:g} ({numbers['times torch eager'][stage]:g}x)" for stage in STAGES
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    backends = result["backends"]
    decode, objects = (
        backends["onnxruntime fp32"]["times torch eager"][stage] for stage in ("decoding", "object tokens")
    )
    quantised = backends["onnxruntime int4"]["decoding, times onnxruntime fp32"]
    integers = backends[f"onnxruntime {INT8_VISION}"]["times torch eager"]["object tokens"]
    lines += [
        "",
        f"Goals: onnxruntime decodes at least 2 x torch eager ({decode:g}), int4 at least 1.5 x "
        f"that ({quantised:g}); object tokens at least 1.3 x "
        f"torch eager ({objects:g} in float32, {integers:g} with the vision encoder in int8).",
        "",
        f"`{result['command']}` at commit {result['commit']}; {result['machine']}; {result['versions']}.",
        MARKS[1].format(**result),
    ]
    return "\n".join(lines) + "\n"


def surroundings(before: float) -> dict[str, str]:
    """Commit, machine and versions, for the page; `before`: the load when it began."""
    return {
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load average {before:.1f} at the start "
        f"and {os.getloadavg()[0]:.1f} at the end",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"onnxruntime {onnxruntime.__version__}",
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--no-compile", action="store_true", help="leave torch.compile out (it takes minutes)"
    )
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--page", type=Path, help="Markdown page whose section is replaced")
    args = parser.parse_args()
    before = os.getloadavg()[0]
    backends = measure(args.turns, args.tokens, args.threads, not args.no_compile)
    result = {
        "command": f"python bench/backends.py --turns {args.turns} --tokens {args.tokens} "
        f"--threads {args.threads}{' --no-compile' * args.no_compile}",
        **surroundings(before),
        "threads": args.threads,
        "units": STAGES,
        "backends": backends,
    }
    print_and_write(result, args.out)
    if args.page:
        write_section(args.page, page(result))


if __name__ == "__main__":
    main()
