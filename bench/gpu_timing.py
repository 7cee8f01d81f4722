# SPDX-License-Identifier: Apache-2.0
"""Times, bandwidth and memory of one device: what the measurements of `gpu.py` are made of."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Counts:
    """How often things are measured.

    Attributes:
        repeats: looks at an object and first tokens, after `warm_up` of each.
        warm_up: see above; tokens of an answer before those that count, too.
        answers: whose tokens are timed.
        tokens: of each answer that count.
        frames: that are followed, after those that fill the tracker's memory.
        copied: bytes of the tensor whose copy gives the bandwidth.
    """

    repeats: int = 30
    warm_up: int = 10
    answers: int = 3
    tokens: int = 100
    frames: int = 300
    copied: int = 2 << 30


class Measured(NamedTuple):
    """What was measured, and what the GPU may be watched at once all else is.

    Attributes:
        values: for the report.
        calls: by the names of times among the values: one call each, for `busy_ms`.
    """

    values: dict[str, Any]
    calls: Mapping[str, Callable[[], object]]


SMOKE = Counts(repeats=2, warm_up=1, answers=1, tokens=3, frames=3, copied=8 << 20)


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(seconds: Sequence[float]) -> dict[str, float | int]:
    """Median and 90th percentile (the smallest time that 90 % of them do not exceed), ms, and how many."""
    ordered = sorted(seconds)
    return {
        "median_ms": statistics.median(ordered) * 1e3,
        "p90_ms": ordered[math.ceil(0.9 * len(ordered)) - 1] * 1e3,
        "n": len(ordered),
    }


def timed(
    call: Callable[[T], object], inputs: Iterable[T], device: torch.device, *, warm_up: int
) -> dict[str, float | int]:
    """Times a call for each input, from an idle device to an idle device; see `spread`.

    Args:
        call: what is timed.
        inputs: made outside the timed stretch; the first ``warm_up`` of them are not counted.
        device: that the call works on.
        warm_up: calls before those that count.
    """
    seconds = []
    for given in inputs:
        synchronize(device)
        start = time.perf_counter()
        call(given)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return spread(seconds[warm_up:])


def copy_bandwidth(device: torch.device, *, size: int, repeats: int = 20) -> float:
    """Bytes per second that a copy within the device's memory moves, read and written together.

    Args:
        device: whose memory.
        size: bytes of the copied tensor: many times the caches.
        repeats: copies that are timed, after three that are not; the median counts.
    """
    # Random numbers: on zeros some GPUs run faster than on data.
    source = torch.randn(size // 2, device=device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(3 + repeats):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            target.copy_(source)
            end.record()
            end.synchronize()
            seconds.append(start.elapsed_time(end) / 1e3)
        else:
            begun = time.perf_counter()
            target.copy_(source)
            seconds.append(time.perf_counter() - begun)
    return 2 * source.nbytes / statistics.median(seconds[3:])


def nominal_bandwidth(device: torch.device) -> float | None:
    """Bytes per second of the memory by its clock and width; None where torch does not tell them."""
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    clock_khz = getattr(properties, "memory_clock_rate", 0)
    return 2e3 * clock_khz * getattr(properties, "memory_bus_width", 0) / 8 or None


def busy_ms(call: Callable[[], object], device: torch.device, *, repeats: int = 10) -> float | None:
    """Milliseconds of a call in which the GPU computes or copies; the rest goes into giving it the work.

    None on a CPU, and where the GPU may not be profiled. What runs after it in the same process may be
    slower: CUDA's profiler stays.
    """
    if device.type != "cuda":
        return None
    try:
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as recorded:
            for _ in range(repeats):
                call()
            synchronize(device)
        of_gpu = (
            event for event in recorded.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA
        )
        total_us = sum(event.self_device_time_total for event in of_gpu)
    except Exception as error:  # an extra: whatever stops it must not cost the measurement
        print(f"the GPU is not profiled: {type(error).__name__}: {error}", file=sys.stderr)
        return None
    return total_us / 1e3 / repeats or None


def begin_memory(device: torch.device) -> None:
    """Forgets the peak so far, and hands back what loading took for a moment."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def memory(device: torch.device) -> dict[str, Any]:
    """Peak memory of the GPU in decimal GB; nothing for a CPU.

    ``torch_gb`` is what torch's tensors took at most. ``device_gb`` is all that is taken on the card now, so
    read before anything is handed back: CUDA's own, TensorRT's, and what torch keeps of its peak.
    """
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {"torch_gb": torch.cuda.max_memory_allocated(device) / 1e9, "device_gb": (total - free) / 1e9}
