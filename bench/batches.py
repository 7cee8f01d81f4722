# SPDX-License-Identifier: Apache-2.0
"""Several questions decoded together, against one after another: torch and ONNX Runtime, ratios in one run.

The random model of `backends.py`; each question is about another object, whose tokens are given, and gets an
answer of a fixed length. Together and one after another take turns, so that whatever else the machine does
meets both::

    python bench/batches.py --out bench/results/batches.json --page docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from backends import surroundings
from mid_size import EXPORTS, LANGUAGE, MASK_NUM, QUESTION, exported, random_network
from sections import print_and_write, write_section

from pixelrefer_ros.model import RegionNetwork
from pixelrefer_ros.runtime import GREEDY, AnswerRequest, StreamingDetokeniser, decode_together

SIZES = (1, 4, 8)
MARKS = ("<!-- batches: begin -->", "<!-- batches: end -->")


def answered(network: RegionNetwork, questions: int, tokens: int, max_batch: int) -> dict[str, float]:
    """When the first question has its first token and its answer, when the average one, when all have; s."""
    requests = [
        AnswerRequest(
            # Other objects each time: no prefix is used again.
            network.prompt_embeddings(QUESTION, [torch.randn(MASK_NUM, LANGUAGE["hidden_size"])]),
            StreamingDetokeniser(lambda token: b""),
            sampling=GREEDY,
            stop_ids=frozenset(),
            max_new_tokens=tokens,
        )
        for _ in range(questions)
    ]
    waiting, first, ends = iter(requests), 0.0, {}
    start = time.perf_counter()
    for request, token in decode_together(
        network.decoder(), lambda: next(waiting, None), max_batch=max_batch
    ):
        first = first or time.perf_counter() - start
        if token.finish is not None:
            ends[request] = time.perf_counter() - start
    return {
        "first token": first,
        "first answer": ends[requests[0]],
        "average answer": statistics.mean(ends.values()),
        "all answers": max(ends.values()),
    }


def measure(turns: int, tokens: int, threads: int) -> list[dict[str, Any]]:
    """For every backend and number of questions: tokens/s together, and how much sooner things come."""
    torch.set_num_threads(threads)
    eager = random_network()
    networks: dict[str, RegionNetwork] = {"torch eager": eager, **exported(eager, threads, EXPORTS[:2])}
    found = []
    for name, network in networks.items():
        answered(network, max(SIZES), 2, max(SIZES))  # fills caches
        for size in SIZES:
            runs = [
                (answered(network, size, tokens, size), answered(network, size, tokens, 1))
                for _ in range(turns)
            ]
            found.append(
                {
                    "backend": name,
                    "questions": size,
                    "tokens/s": round(
                        statistics.median(size * tokens / a["all answers"] for a, _ in runs), 1
                    ),
                    "times as soon": {
                        what: round(statistics.median(alone[what] / both[what] for both, alone in runs), 2)
                        for what in runs[0][0]
                    },
                }
            )
    return found


def page(result: dict[str, Any]) -> str:
    """The section of the page of benchmarks."""
    lines = [
        MARKS[0],
        "## Several questions at once",
        "",
        f"The random model of the backends' table, {result['threads']} thread; each question is about "
        f"another object, whose tokens are given, and its answer has {result['tokens']} tokens. How many "
        "times as soon as with one question after another: the first question's first token, its whole "
        "answer, the average answer, and all of them. The first answer shares the machine with the others, "
        "so it ends later; with `max_batch` 1 it does not.",
        "",
        "| backend | questions | tokens/s | first token | first answer | average answer | all answers |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        cells = [f"{row['tokens/s']:g}", *(f"{ratio:g}x" for ratio in row["times as soon"].values())]
        lines.append(f"| {row['backend']} | {row['questions']} | {' | '.join(cells)} |")
    lines += [
        "",
        f"`{result['command']}` at commit {result['commit']}; {result['machine']}; {result['versions']}.",
        MARKS[1],
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--page", type=Path, help="Markdown page whose section is replaced")
    args = parser.parse_args()
    before = os.getloadavg()[0]
    rows = measure(args.turns, args.tokens, args.threads)
    result = {
        "command": f"python bench/batches.py --turns {args.turns} --tokens {args.tokens} "
        f"--threads {args.threads}",
        **surroundings(before),
        "threads": args.threads,
        "tokens": args.tokens,
        "rows": rows,
    }
    print_and_write(result, args.out)
    if args.page:
        write_section(args.page, page(result))


if __name__ == "__main__":
    main()
