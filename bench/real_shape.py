# SPDX-License-Identifier: Apache-2.0
"""The full 2B shape on this machine: random weights in the released layout are written, loaded and asked.

Times and memory are those of PixelRefer-Lite-2B; the answer is noise. A second process loads and answers, so
that its peak memory is that of the model and not of making the weights.

    python bench/real_shape.py [--dtype bfloat16] [--tokens 16] [--keep] [--folder DIR] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from machine import check_room, commit, machine
from random_2b import DISK_BYTES, write_checkpoint

from pixelrefer_ros.model import PixelReferLite, TimedTokens

NEEDED_BYTES = {"bfloat16": 6 << 30, "float16": 6 << 30, "float32": 11 << 30}


def main() -> int:
    """Writes, measures in a second process, reports, and cleans up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", choices=sorted(NEEDED_BYTES), default="bfloat16")
    parser.add_argument("--tokens", type=int, default=16, help="tokens to decode")
    parser.add_argument("--folder", type=Path, help="where the weights go; a temporary folder by default")
    parser.add_argument("--keep", action="store_true", help="leave the folder for another run")
    parser.add_argument("--out", type=Path, default=Path("out/real_shape.json"))
    parser.add_argument("--answer-only", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.answer_only:
        print(json.dumps(answer(args.answer_only, args.dtype, args.tokens)))
        return 0

    folder = args.folder or Path(tempfile.mkdtemp(prefix="pixelrefer-2b-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        check_room(folder, disk=DISK_BYTES, memory=NEEDED_BYTES[args.dtype])
        start = time.perf_counter()
        parameters = write_checkpoint(folder)
        write_s = time.perf_counter() - start
        command = [sys.executable, __file__, "--answer-only", str(folder), "--dtype", args.dtype]
        done = subprocess.run(
            [*command, "--tokens", str(args.tokens)], check=True, stdout=subprocess.PIPE, text=True
        )
        measured = {"write_weights_s": write_s, **json.loads(done.stdout.splitlines()[-1])}
    finally:
        if not args.keep:
            shutil.rmtree(folder)
    report = {
        "what": "PixelRefer-Lite-2B shape, random weights",
        "parameters": parameters,
        "dtype": args.dtype,
        "command": " ".join(["python", "bench/real_shape.py", *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(),
        "measured": measured,
    }
    for name, value in measured.items():
        print(f"{name:<28}{value:12.3f}" if isinstance(value, float) else f"{name:<28}{value:>12}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"written to {args.out}" + (f"; weights kept in {folder}" if args.keep else ""))
    return 0


def answer(folder: Path, dtype: str, tokens: int) -> dict[str, float | int]:
    """Loads the folder and answers one question about one object of a 640 x 480 picture."""
    load = os.getloadavg()[0]  # what else the machine was doing
    clock = Clock()
    model = PixelReferLite.from_pretrained(folder, dtype=dtype)
    clock.stop("load_s")
    after_load = peak_gib()
    rows, columns = np.mgrid[0:480, 0:640]
    rgb = np.stack([rows % 256, columns % 256, (rows + columns) // 5 % 256], axis=-1).astype(np.uint8)
    mask = ((rows - 240) / 90) ** 2 + ((columns - 330) / 120) ** 2 < 1
    clock.restart()
    model.encode_global(rgb)
    clock.stop("encode_global_first_s")
    whole = model.encode_global(rgb)
    clock.stop("encode_global_s")
    of_object = model.encode_object(rgb, mask, whole)
    clock.stop("encode_object_s")
    events = iter(model.generate("What is <region>?", [[TimedTokens(of_object)]], max_new_tokens=tokens))
    next(events)
    clock.stop("first_token_s")
    steps = sum(1 for _ in events)
    clock.stop("further_tokens_s")
    rate = steps / clock.times["further_tokens_s"] if steps else 0.0
    return {
        **clock.times,
        "further_tokens": steps,
        "tokens_per_s": rate,
        "threads": torch.get_num_threads(),
        "load_average_before": load,
        "peak_rss_after_load_gib": after_load,
        "peak_rss_gib": peak_gib(),
    }


class Clock:
    """Names the time since the last stop."""

    def __init__(self) -> None:
        """Starts."""
        self.times: dict[str, float] = {}
        self._start = time.perf_counter()

    def restart(self) -> None:
        """Forgets the time since the last stop."""
        self._start = time.perf_counter()

    def stop(self, name: str) -> None:
        """Notes the time since the last stop under a name."""
        now = time.perf_counter()
        self.times[name] = now - self._start
        self._start = now


def peak_gib() -> float:
    """Largest resident memory of this process so far, GiB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


if __name__ == "__main__":
    raise SystemExit(main())
