# SPDX-License-Identifier: Apache-2.0
"""What makes a training step quick on a CPU that knows bfloat16: one thing added after the other.

Two losses with their gradients, on batches nobody has had yet, since what a size costs when it comes for the
first time is the point: crops that the vision encoder names, and questions about signs that the language
model reads. The ways take turns in this one process; the machine should be idle.

    python bench/training_cpu.py --out bench/results/training_cpu.json --page docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from backends import surroundings
from sections import print_and_write, write_section

from pixelrefer_ros.training import fused, packed_rows
from pixelrefer_ros.training.attributes import AttributeBatches, AttributeHeads, attribute_losses
from pixelrefer_ros.training.checkpoints import Sizes, new_checkpoint, new_network, tokenizer_of
from pixelrefer_ros.training.kept_memory import keep_memory
from pixelrefer_ros.training.language_settings import LanguageSettings
from pixelrefer_ros.training.precision import mixed_precision
from pixelrefer_ros.training.question_bank import QuestionBank
from pixelrefer_ros.training.reading import ReadingBatches, reading_loss
from pixelrefer_ros.training.signs import Signs

MARKS = ("<!-- training_cpu: begin -->", "<!-- training_cpu: end -->")
TOKENS = 5200
WAYS = ("float32", "bfloat16, any size", "sizes that come again", "and compiled parts")
CPU = torch.device("cpu")

Step = Callable[[int, bool], torch.Tensor]
"""The loss of a batch by its number, in bfloat16 or not."""


@contextlib.contextmanager
def way(name: str) -> Iterator[bool]:
    """Within it training takes this way; whether that is in bfloat16."""
    with contextlib.ExitStack() as stack:
        if name == "bfloat16, any size":
            for size in ("_ROWS", "_LENGTH"):
                stack.enter_context(mock.patch.object(packed_rows, size, 1))
        if name != WAYS[-1]:
            stack.enter_context(mock.patch.object(fused, "_failed", True))
        yield name != "float32"


def steps_of(folder: Path, seed: int) -> dict[str, Step]:
    """Seeing and reading, of a new model."""
    settings = LanguageSettings(seed=seed)
    new_checkpoint(folder, Sizes(), seed=seed)
    network = new_network(folder, seed=seed)
    crops = AttributeBatches(network.config, seed=seed, scenes=settings.attribute_scenes)
    heads = AttributeHeads(network.config.vision.hidden_size)
    signs = Signs.speaking(network.language.model.embed_tokens, network.config.mask_num, tokenizer_of(folder))
    batches = ReadingBatches(folder, network.config, seed=seed, scenes=settings.reading_scenes)
    bank = QuestionBank()
    for number in range(12):
        bank.add(batches[number])

    def seeing(number: int, bf16: bool) -> torch.Tensor:
        loss = attribute_losses(network.vision, heads, crops[number], bf16=bf16)["loss"]
        assert isinstance(loss, torch.Tensor)
        return loss

    def reading(number: int, bf16: bool) -> torch.Tensor:
        batch = bank.draw(np.random.default_rng([seed, number]), TOKENS)
        with mixed_precision(CPU, bf16=bf16):
            return reading_loss(network, signs, batch).loss

    return {"crops are named": seeing, "questions are read": reading}


def measure(turns: int, seed: int) -> dict[str, dict[str, float]]:
    """Seconds of a step, the median of the turns, by what is learned and by way; drawing is left out."""
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for what, step in steps_of(Path(folder), seed).items():
            times: dict[str, list[float]] = {name: [] for name in WAYS}
            for turn in range(turns + 2):  # two to warm up, in which parts are compiled
                for place, name in enumerate(WAYS):
                    with way(name) as bf16:
                        started = time.perf_counter()
                        step(turn * len(WAYS) + place, bf16).backward()  # type: ignore[no-untyped-call]
                        times[name].append(time.perf_counter() - started)
            found[what] = {name: times[name][2:] for name in WAYS}
            print(what, {k: round(statistics.median(v), 3) for k, v in found[what].items()}, file=sys.stderr)
    return {what: {k: statistics.median(v) for k, v in of.items()} for what, of in found.items()}


def section(result: dict[str, Any]) -> str:
    """Of the page."""
    rows = [
        f"| {name} | "
        + " | ".join(f"{of[name]:.2f} s ({of[WAYS[0]] / of[name]:.2f}x)" for of in result["seconds"].values())
        + " |"
        for name in WAYS
    ]
    run = result["run"]
    return "\n".join(
        [
            MARKS[0],
            "## A training step on a CPU",
            "",
            "The loss of one batch with its gradients, by one thread: the crops of five scenes, drawing "
            f"included, and {TOKENS} tokens of questions. Each way has what the one before has; in brackets, "
            "how many times as fast as float32.",
            "",
            "| | " + " | ".join(result["seconds"]) + " |",
            "|---|" + "---|" * len(result["seconds"]),
            *rows,
            "",
            f"`{result['command']}` at commit {run['commit']}; {run['machine']}; {run['versions']}.",
            MARKS[1],
            "",
        ]
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--page", type=Path, help="of benchmarks")
    args = parser.parse_args()
    before = os.getloadavg()[0]
    torch.set_num_threads(1)
    keep_memory()
    seconds = measure(args.turns, args.seed)
    result = {
        "command": " ".join(["python", "bench/training_cpu.py", f"--turns {args.turns}"]),
        "seconds": seconds,
        "run": surroundings(before),
    }
    print_and_write(result, args.out)
    if args.page:
        write_section(args.page, section(result))


if __name__ == "__main__":
    main()
