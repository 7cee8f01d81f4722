# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ctypes
import gc
import resource
from collections import deque
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tracking_scene import moving_frames

from pixelrefer_ros.tracking import StreamTracker
from pixelrefer_ros.tracking.memory import MemoryBank
from pixelrefer_ros.tracking.sam2 import Sam2
from pixelrefer_ros.tracking.tiny import tiny_sam2
from pixelrefer_ros.types import Box, Region

torch.set_num_threads(1)

GRID, CHANNELS, WIDTH = 3, 2, 4


def bank_of_numbers() -> MemoryBank:
    return MemoryBank(
        slots=7,
        pointer_slots=16,
        grid=GRID,
        channels=CHANNELS,
        width=WIDTH,
        device="cpu",
        dtype=torch.float32,
    )


def memory(number: int) -> torch.Tensor:
    return torch.full((1, GRID, CHANNELS), float(number))


def pointer(number: int) -> torch.Tensor:
    return torch.full((1, WIDTH), float(number))


@settings(deadline=None)
@given(
    pushes=st.lists(st.integers(0, 25), min_size=1, max_size=4),
    back=st.integers(0, 8),
    first=st.integers(1, 40),
)
def test_slots_hold_the_prompt_and_the_newest_frames_in_order(
    pushes: list[int], back: int, first: int
) -> None:
    """Against plain lists: per object the prompt (100 + row), then frames 1, 2, ... since it."""
    bank = bank_of_numbers()
    kept = []
    for row, count in enumerate(pushes):
        assert bank.add() == row
        bank.start([row], memory(100 + row), pointer(100 + row))
        memories: deque[int] = deque(maxlen=6)
        pointers: deque[int] = deque(maxlen=15)
        for frame in range(1, count + 1):
            bank.push([row], memory(frame), pointer(frame))
            memories.append(frame)
            pointers.append(frame)
        left = max(count - back, 0)
        kept.append(([m for m in memories if m <= left], [p for p in pointers if p <= left], left))
    rows = list(range(len(pushes)))
    recall = bank.recall(rows, [first] * len(rows), [min(back, count) for count in pushes])
    for row, (memories_left, pointers_left, left) in enumerate(kept):
        valid = torch.ones(7, dtype=torch.bool) if recall.memory_valid is None else recall.memory_valid[row]
        ptr_valid = (
            torch.ones(16, dtype=torch.bool) if recall.pointer_valid is None else recall.pointer_valid[row]
        )
        assert recall.memory[row, valid, 0, 0].tolist() == [100 + row, *memories_left]
        assert recall.pointers[row, ptr_valid, 0].tolist() == [100 + row, *pointers_left]
        expected = [first + left] + [left + 1 - frame for frame in pointers_left]
        assert recall.pointer_distance[row, ptr_valid].tolist() == expected


def test_start_forgets_what_was_remembered_of_that_object_only() -> None:
    bank = bank_of_numbers()
    for row in range(2):
        bank.add()
        bank.start([row], memory(100), pointer(100))
        bank.push([row], memory(1), pointer(1))
    bank.start([1], memory(200), pointer(200))
    recall = bank.recall([0, 1], [1, 1], [0, 0])
    assert recall.memory_valid is not None
    assert recall.memory_valid.sum(1).tolist() == [2, 1]
    assert recall.memory[1, 0, 0, 0] == 200


def test_unused_slots_do_not_change_the_result_whatever_they_hold() -> None:
    sam2 = Sam2(tiny_sam2(image_size=64))
    frames = moving_frames(2)
    with torch.inference_mode():
        features = sam2.encode(frames[1].rgb)
        bank = sam2.new_bank()
        for _ in range(3):
            bank.add()
        for row, count in enumerate((0, 3, 20)):
            bank.start([row], torch.randn(1, 16, 64), torch.randn(1, 128))
            for _ in range(count):
                bank.push([row], torch.randn(1, 16, 64), torch.randn(1, 128))
        recall = bank.recall([0, 1, 2], [1, 1, 1], [0, 0, 0])
        assert recall.memory_valid is not None and recall.pointer_valid is not None
        noise = replace(
            recall,
            memory=torch.where(recall.memory_valid[..., None, None], recall.memory, 50.0),
            pointers=torch.where(recall.pointer_valid[..., None], recall.pointers, -50.0),
        )
        clean, dirty = sam2.with_memory(features, recall), sam2.with_memory(features, noise)
        # exp(-1e4) is 0 in float32: the noise has weight 0, so that nothing but rounding may differ.
        assert float((clean - dirty).abs().max()) < 1e-5
        full = bank.recall([2], [1], [0])
        assert full.memory_valid is None  # the faster kernel, without masks
        # Batch of three with masks against one without: another order of summing in float32.
        assert float((sam2.with_memory(features, full) - clean[2:]).abs().max()) < 1e-4


def resident_mib() -> float:
    """Memory this process holds now, MiB, less what its allocator only keeps for later."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
def test_memory_stays_flat_over_2000_frames(capsys: pytest.CaptureFixture[str]) -> None:
    tracker = StreamTracker(tiny_sam2(image_size=64))
    frames = moving_frames(20)
    tracker.prompt(frames[0], [Region(box=Box(20 + 30 * i, 20, 40, 40), object_id=i + 1) for i in range(2)])
    resident, slots = {}, set()
    for index in range(2000):
        tracker.track(replace(frames[index % 20], stamp_ns=(index + 1) * 100_000_000))
        slots.add(tracker.memory_nbytes)
        if index % 100 == 99:
            resident[index + 1] = resident_mib()
    growth = resident[2000] - resident[200]
    with capsys.disabled():
        print(f"\n2000 frames, 2 objects: {resident[2000]:.0f} MiB, {growth:+.1f} MiB in the last 1800")
    assert len(slots) == 1
    # What the allocator only keeps, 15 MiB once, is given back before; one mask of an object kept per frame
    # would be 30 MiB.
    assert growth < 8
