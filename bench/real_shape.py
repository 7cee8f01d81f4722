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
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers import VideoLlama3VisionConfig

from pixelrefer_ros.model import PixelReferLite, TimedTokens
from pixelrefer_ros.model.config import MODEL_TYPE, read_config
from pixelrefer_ros.model.tiny import released_shapes
from pixelrefer_ros.model.tiny_tokenizer import write_tiny_tokenizer
from pixelrefer_ros.model.weights import INDEX

SHARD_BYTES = 1 << 30
NEEDED_BYTES = {"bfloat16": 6 << 30, "float16": 6 << 30, "float32": 11 << 30}
DISK_BYTES = 5 << 30

CONFIG: dict[str, Any] = {
    "model_type": MODEL_TYPE,
    "architectures": ["PixelReferLiteQwen2ForCausalLM"],
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "mask_num": 32,
    "mm_hidden_size": 1152,
    "mm_vision_encoder": "DAMO-NLP-SG/VL3-SigLIP-NaViT",
    "spatial_merge_size": 2,
}
VISION = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}


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
        check_room(folder, args.dtype)
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


def write_checkpoint(folder: Path) -> int:
    """Writes the folder shard by shard; returns the number of parameters."""
    vocabulary = write_tiny_tokenizer(folder)
    fields = CONFIG | {"region_token_index": vocabulary["<REGION>"]}
    # No vision_config: as in a released folder, the sizes must come from the weights.
    (folder / "config.json").write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    shapes = released_shapes(read_config(folder, fields, VideoLlama3VisionConfig(**VISION)))
    shards: list[list[str]] = [[]]
    size = 0
    for key, shape in shapes.items():
        if size > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(key)
        size += 2 * shape.numel()
    generator = torch.Generator().manual_seed(0)
    weight_map: dict[str, str] = {}
    for number, keys in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file({key: random_weight(key, shapes[key], generator) for key in keys}, folder / name)
        weight_map |= dict.fromkeys(keys, name)
    total = sum(shape.numel() for shape in shapes.values())
    index = {"metadata": {"total_size": 2 * total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return total


def random_weight(key: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """One tensor in bfloat16; norms near 1, everything else as an untrained model starts."""
    center = 1.0 if ("norm" in key or ".ln_" in key) and key.endswith("weight") else 0.0
    return torch.empty(shape, dtype=torch.bfloat16).normal_(center, 0.02, generator=generator)


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


def check_room(folder: Path, dtype: str) -> None:
    """Ends with one line where memory or disk would not do."""
    disk = shutil.disk_usage(folder).free
    memory = next(
        int(line.split()[1]) << 10
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        if line.startswith("MemAvailable")
    )
    if disk < DISK_BYTES:
        raise SystemExit(f"{folder} has {disk >> 30} GiB free; {DISK_BYTES >> 30} are needed: give --folder")
    if memory < NEEDED_BYTES[dtype]:
        raise SystemExit(f"{memory >> 30} GiB of memory free; {dtype} needs {NEEDED_BYTES[dtype] >> 30}")


def machine() -> dict[str, Any]:
    """What it was measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def commit() -> str:
    """The commit measured; empty outside a checkout."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


if __name__ == "__main__":
    raise SystemExit(main())
