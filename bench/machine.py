# SPDX-License-Identifier: Apache-2.0
"""What a measurement was made on, and whether there is room for it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch
import transformers

_ROOT = Path(__file__).resolve().parents[1]


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
    """The commit measured, "-dirty" after it where files have changed; empty outside a checkout."""
    git = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git
        return ""


def available_memory() -> int:
    """Bytes that could be used without swapping (Linux)."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


def check_room(folder: Path, *, disk: int, memory: int) -> None:
    """Ends with one line where disk or memory, in bytes, would not do."""
    if (free := shutil.disk_usage(folder).free) < disk:
        raise SystemExit(f"{folder} has {free >> 30} GiB free; {disk >> 30} are needed: give --folder")
    if (free := available_memory()) < memory:
        raise SystemExit(f"{free >> 30} GiB of memory are free; {memory >> 30} are needed")
