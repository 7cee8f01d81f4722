# SPDX-License-Identifier: Apache-2.0
"""What a training step of each small model costs on one CPU core, against the plain way of computing it.

All variants run in this one process on the same scenes, and CPU time is counted: the ratios hold on a busy
machine, the absolute numbers only roughly.

    python bench/training_speed.py [--scenes 1] [--steps 1] [--models language,tracker] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from pixelrefer_ros.model import PATCH, PixelReferNetwork, patchify  # noqa: E402
from pixelrefer_ros.training import language_loss  # noqa: E402
from pixelrefer_ros.training.checkpoints import (  # noqa: E402
    Sizes,
    new_checkpoint,
    new_network,
    parameter_count,
)
from pixelrefer_ros.training.data import Batch  # noqa: E402
from pixelrefer_ros.training.language import LanguageSettings, Learner  # noqa: E402
from pixelrefer_ros.training.language_pass import Packed  # noqa: E402
from pixelrefer_ros.training.stages import INSTRUCTIONS, PERCEPTION, Stage  # noqa: E402
from pixelrefer_ros.training.text_rows import IGNORED  # noqa: E402
from pixelrefer_ros.training.tracker import STAGES, TrackerSettings, new_tracker  # noqa: E402
from pixelrefer_ros.training.tracker_clips import ClipBatches  # noqa: E402
from pixelrefer_ros.training.tracker_loss import Follower  # noqa: E402
from pixelrefer_ros.training.world_data import WorldBatches  # noqa: E402

LARGER = Sizes(
    vision_width=192,
    vision_layers=6,
    vision_heads=6,
    language_layers=6,
    mask_num=16,
    patch_budget=1024,
)
"""The sizes that were tried first."""


def plain_loss(network: PixelReferNetwork, batch: Batch) -> Tensor:
    """The encoder's own forward, picture by picture in its attention, and all rows padded to the longest."""

    def own_forward(vision: Any, pictures: list[Any]) -> list[Tensor]:
        grids = [(1, picture.shape[0] // PATCH, picture.shape[1] // PATCH) for picture in pictures]
        features = vision(
            pixel_values=torch.cat([patchify(picture) for picture in pictures]),
            grid_thw=torch.tensor(grids),
            merge_sizes=torch.ones(len(grids), dtype=torch.long),
        ).last_hidden_state
        return list(features.split([rows * columns for _, rows, columns in grids]))

    with mock.patch.object(language_loss, "encode_pictures", own_forward):
        embeddings = language_loss.prompt_embeddings(network, batch)
    packed = Packed.of(batch.rows)
    padded = embeddings.new_zeros(*batch.rows.ids.shape, embeddings.shape[1])
    padded = padded.index_put((packed.rows, packed.columns), embeddings)
    mask = (torch.arange(batch.rows.ids.shape[1])[None] < batch.rows.length[:, None]).long()
    hidden = network.language.model(
        inputs_embeds=padded, attention_mask=mask, use_cache=False
    ).last_hidden_state
    targets = batch.rows.labels[:, 1:]
    asked = targets != IGNORED
    return F.cross_entropy(network.language.lm_head(hidden[:, :-1][asked]), targets[asked])


def grouped_loss(network: PixelReferNetwork, batch: Batch) -> Tensor:
    """As training does it."""
    return language_loss.answer_loss(network, batch).loss


def language(scenes: int, steps: int) -> Iterator[dict[str, Any]]:
    """Both stages in four variants; each is compared with the first."""
    share = LanguageSettings().surroundings
    variants: list[tuple[str, Sizes, Callable[[PixelReferNetwork, Batch], Tensor], float]] = [
        ("larger, plain", LARGER, plain_loss, 1.0),
        ("larger, grouped", LARGER, grouped_loss, 1.0),
        ("default, plain", Sizes(), plain_loss, 1.0),
        ("default, grouped", Sizes(), grouped_loss, 1.0),
        (f"default, grouped, {share:.0%} of surroundings teach", Sizes(), grouped_loss, share),
    ]
    for stage in (PERCEPTION, INSTRUCTIONS):
        first = None
        for name, sizes, loss, surroundings in variants:
            row = _language_row(stage, name, sizes, loss, surroundings, scenes, steps)
            first = first or row["questions_per_s"]
            yield row | {"ratio": round(row["questions_per_s"] / first, 2)}


def _language_row(
    stage: Stage,
    name: str,
    sizes: Sizes,
    loss: Callable[[PixelReferNetwork, Batch], Tensor],
    surroundings: float,
    scenes: int,
    steps: int,
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        new_checkpoint(folder, sizes, seed=0)
        network = new_network(folder, seed=0)
        batches = WorldBatches(
            folder, network.config, stage, seed=0, scenes=scenes, surroundings=surroundings
        )
        started = time.process_time()
        drawn = [batches[number] for number in range(steps)]
        drawing = time.process_time() - started
    optimizer = torch.optim.AdamW(Learner(network).parameters(), fused=True)
    started = time.process_time()
    for batch in drawn:
        optimizer.zero_grad(set_to_none=True)
        loss(network, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    seconds = time.process_time() - started
    pictures = [
        p for b in drawn for p in (*b.frames, *(c.image for c in b.crops), *(c.context for c in b.crops))
    ]
    patches = sum(p.shape[0] * p.shape[1] // PATCH**2 for p in pictures)
    tokens = sum(int(batch.rows.length.sum()) for batch in drawn)
    questions = sum(len(batch.rows.ids) for batch in drawn)
    return {
        "model": "language",
        "stage": stage.name,
        "variant": name,
        "parameters": parameter_count(network),
        "s_per_scene": round(seconds / (scenes * steps), 3),
        "drawing_s_per_scene": round(drawing / (scenes * steps), 3),
        "patches_per_s": round(patches / seconds),
        "tokens_per_s": round(tokens / seconds),
        "questions_per_s": round(questions / seconds, 2),
    }


def all_slots(self: Any, seen: Any, steps: list[Any], gap: Tensor) -> Tensor:
    """Memory attention over every slot, the empty ones masked, as the tracker's graphs do it."""

    def slotted(first: Tensor, later: list[Tensor], slots: int) -> tuple[Tensor, Tensor]:
        newest = later[-(slots - 1) :]
        empty = [torch.zeros_like(first)] * (slots - 1 - len(newest))
        valid = torch.ones(len(first), slots, dtype=torch.bool)
        valid[:, 1 : 1 + len(empty)] = False
        return torch.stack([first, *empty, *newest], dim=1), valid

    first, later = steps[0], steps[1:]
    memory, memory_valid = slotted(first.memory, [s.memory for s in later], self._slots)
    pointers, pointer_valid = slotted(first.pointer, [s.pointer for s in later], self._pointer_slots)
    distance = torch.arange(self._pointer_slots, 0, -1, dtype=torch.float32).repeat(len(gap), 1)
    distance[:, 0] = gap + len(later)
    found: Tensor = self._attention(seen.coarse, memory, memory_valid, pointers, distance, pointer_valid)
    return found


def tracker(scenes: int, steps: int) -> Iterator[dict[str, Any]]:
    """Short and long clips; each variant is compared with the first."""
    settings, stage = TrackerSettings(), STAGES[1]
    used = Follower._conditioned
    variants = [
        ("256 px, all slots", 256, all_slots),
        ("256 px, used slots", 256, used),
        ("192 px, used slots", 192, used),
    ]
    for length in (5, 9):
        first = None
        for name, size, conditioned in variants:
            model = new_tracker(seed=0, image_size=size, width=settings.width, slots=7).train()
            clips = ClipBatches(size, replace(stage, scenes=scenes, length=length), seed=0)
            started = time.process_time()
            drawn = [clips[number] for number in range(steps)]
            drawing = time.process_time() - started
            follower = Follower(model)
            optimizer = torch.optim.AdamW(model.parameters(), fused=True)
            with mock.patch.object(Follower, "_conditioned", conditioned):
                started = time.process_time()
                for item in drawn:
                    optimizer.zero_grad(set_to_none=True)
                    follower.losses(item)["loss"].backward()  # type: ignore[union-attr, no-untyped-call]
                    optimizer.step()
                seconds = time.process_time() - started
            rate = scenes * steps * length / seconds
            first = first or rate
            yield {
                "model": "tracker",
                "stage": f"clips of {length}",
                "variant": name,
                "parameters": sum(p.numel() for p in model.parameters()),
                "s_per_scene": round(seconds / (scenes * steps), 3),
                "drawing_s_per_scene": round(drawing / (scenes * steps), 3),
                "frames_per_s": round(rate, 2),
                "objects_in_frames_per_s": round(sum(i.masks.shape[0] for i in drawn) * length / seconds, 2),
                "ratio": round(rate / first, 2),
            }


def main() -> int:
    """Measures, prints a table, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scenes", type=int, default=1, help="per step")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--models", default="language,tracker")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    sources = {"language": language, "tracker": tracker}
    for model in args.models.split(","):
        for row in sources[model](args.scenes, args.steps):
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            rows.append(row)
    if args.out:
        machine = {
            "cpu": platform.processor() or platform.machine(),
            "threads": 1,
            "torch": torch.__version__,
        }
        args.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
