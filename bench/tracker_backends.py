# SPDX-License-Identifier: Apache-2.0
"""The tracker under torch and under ONNX Runtime: time per frame, in one run.

Follows 1 and 4 objects with untrained weights, in the shape of the tests' small model and of SAM 2.1 tiny.
The backends take turns frame by frame, so that whatever else the machine does meets both. Every slot of the
memory is computed from the first frame on, so that a few frames tell. Prints and writes JSON::

    python bench/tracker_backends.py --out bench/results/tracker_backends.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test")]

import onnxruntime  # noqa: E402
import torch  # noqa: E402
from machine import commit  # noqa: E402
from pixelrefer_ros.export import export_tracker  # noqa: E402
from sections import print_and_write  # noqa: E402
from tracking_scene import moving_frames  # noqa: E402
from transformers import Sam2VideoModel  # noqa: E402

from pixelrefer_ros.tracking import StateRules, StreamTracker  # noqa: E402
from pixelrefer_ros.tracking.checkpoint import set_image_size  # noqa: E402
from pixelrefer_ros.tracking.meta_config import sam2_config  # noqa: E402
from pixelrefer_ros.tracking.tiny import randomise, tiny_config, write_sam2  # noqa: E402
from pixelrefer_ros.types import Box, Region  # noqa: E402

SHAPES = {"small test model": tiny_config, "SAM 2.1 tiny": lambda: sam2_config("tiny")}
BACKENDS = ("torch", "onnxruntime")


def write_model(shape: str, image_size: int, folder: Path) -> dict[str, Path]:
    """An untrained checkpoint of that shape, and its export: a folder for each backend."""
    config = SHAPES[shape]()
    set_image_size(config, image_size)
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(parents=True)
    write_sam2(randomise(Sam2VideoModel(config)), checkpoint)
    return {"torch": checkpoint, "onnxruntime": export_tracker(checkpoint, folder / "exported")}


def measure(folders: dict[str, Path], objects: int, frames: int) -> dict[str, object]:
    """Milliseconds per frame under each backend, and how they compare."""
    rules = StateRules(min_area_px=0, max_area_fraction=1.0)
    trackers = {
        name: StreamTracker.from_pretrained(folder, backend=name, states=rules)
        for name, folder in folders.items()
    }
    scene = moving_frames(frames + 2, height=480, width=640)
    boxes = [Box(60 + 100 * index, 80 + 40 * index, 160, 120) for index in range(objects)]
    regions = [Region(box=box, object_id=index + 1) for index, box in enumerate(boxes)]
    seconds: dict[str, list[float]] = {name: [] for name in BACKENDS}
    same, either = 0, 0
    for index, frame in enumerate(scene):
        tracks = {}
        for name, tracker in trackers.items():
            if index == 0:
                tracker.prompt(frame, regions)
            start = time.perf_counter()
            tracks[name] = tracker.track(frame)
            if index >= 2:  # the prompt's frame, and one to warm up
                seconds[name].append(time.perf_counter() - start)
        for one, other in zip(*(tracks[name] for name in BACKENDS), strict=True):
            same += int((one.mask & other.mask).sum())
            either += int((one.mask | other.mask).sum())
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "objects": objects,
        **{f"{name}_ms_per_frame": round(value * 1e3, 1) for name, value in medians.items()},
        **{f"{name}_frames_per_s": round(1 / value, 2) for name, value in medians.items()},
        "onnxruntime_over_torch": round(medians["torch"] / medians["onnxruntime"], 2),
        "mask_overlap": round(same / either, 5) if either else None,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--image-size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = []
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            folders = write_model(shape, args.image_size, Path(folder))
            exporting = round(time.perf_counter() - start, 1)
            runs = [measure(folders, objects, args.frames) for objects in (1, 4)]
        results.append({"shape": shape, "written_and_exported_in_s": exporting, "runs": runs})
        print(json.dumps(results[-1]), file=sys.stderr)
    given = f"--frames {args.frames} --image-size {args.image_size} --threads {args.threads}"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    result = {
        "command": f"python bench/tracker_backends.py {given}",
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {args.threads} thread(s) used, "
        f"{platform.system()}, shared: load {load} at the end",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        "weights": "random, float32",
        "image_size": args.image_size,
        "results": results,
    }
    print_and_write(result, args.out)


if __name__ == "__main__":
    main()
