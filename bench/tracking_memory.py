# SPDX-License-Identifier: Apache-2.0
"""Memory of the tracker over a long stream, with objects coming and going.

Runs a small untrained SAM 2 over a moving picture: two objects stay, a third is added and removed every
100 frames, one is corrected every 250. Prints and writes resident memory, the memory slots' size and the
time per frame::

    python bench/tracking_memory.py --frames 2000 --out bench/results/tracking_memory.json
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test")]

import torch  # noqa: E402
from machine import commit  # noqa: E402
from sections import print_and_write  # noqa: E402
from tracking_scene import moving_frames  # noqa: E402

from pixelrefer_ros.tracking import StreamTracker  # noqa: E402
from pixelrefer_ros.tracking.tiny import tiny_sam2  # noqa: E402
from pixelrefer_ros.types import Box, Region  # noqa: E402

PERIOD_NS = 33_333_333
FEWEST = 20
SAMPLES = 20


def resident_mib() -> float:
    """Memory this process holds now, MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def measure(frames: int, image_size: int) -> dict[str, object]:
    """Follow objects over ``frames`` frames; return what was measured."""
    torch.set_num_threads(1)
    tracker = StreamTracker(tiny_sam2(image_size=image_size))
    scene = moving_frames(30)
    tracker.prompt(scene[0], [Region(box=Box(20 + 40 * i, 20, 40, 40), object_id=i + 1) for i in range(2)])
    resident, seconds, slots = [], [], []
    for index in range(frames):
        frame = replace(scene[index % len(scene)], stamp_ns=(index + 1) * PERIOD_NS)
        start = time.perf_counter()
        if index % 100 == 50:
            tracker.prompt(frame, [Region(box=Box(60, 50, 30, 30), object_id=3)])
        if index % 250 == 249:
            tracker.prompt(frame, [Region(box=Box(30, 30, 50, 40), object_id=1)])
        tracker.track(frame)
        if index % 100 == 99:
            tracker.remove(3)
        seconds.append(time.perf_counter() - start)
        resident.append(resident_mib())
        slots.append(tracker.memory_nbytes)
    warm = frames // 10
    step = max(frames // SAMPLES, 1)
    return {
        "frames": frames,
        "image_size": image_size,
        "resident_mib": [round(value, 1) for value in resident[step - 1 :: step]],
        "growth_mib_after_warm_up": round(max(resident[-warm:]) - max(resident[warm : 2 * warm]), 2),
        "slots_bytes_two_and_three_objects": [min(slots), max(slots)],
        "ms_per_frame_p50": round(statistics.median(seconds) * 1e3, 1),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.frames < FEWEST:
        parser.error(f"--frames {args.frames}: two tenths of them are compared, so {FEWEST} are needed")
    given = f"--frames {args.frames} --image-size {args.image_size}"
    result = {
        "command": f"python bench/tracking_memory.py {given}",
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread, {platform.system()}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        **measure(args.frames, args.image_size),
    }
    print_and_write(result, args.out)


if __name__ == "__main__":
    main()
