# SPDX-License-Identifier: Apache-2.0
"""Several processes that train one model: each is shown scenes of its own, and gradients are averaged.

On a CPU, matrices of a small model are too small for several threads; processes share nothing but gradients.
In each of them the same code runs; the first one writes, watches and says when to stop. In a run of one
process nothing here does anything.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, get_context, spawn

from pixelrefer_ros.errors import PixelReferError

_APART = 10_000
_interrupted = False


def own_seed(seed: int, number: int) -> int:
    """The seed of what a process is shown: the run's own for the first one."""
    return seed + _APART * number


def is_first() -> bool:
    """Whether this process is the one that writes and watches."""
    return not dist.is_initialized() or dist.get_rank() == 0


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Gives all processes the mean of their gradients; where one has none, it counts as zero."""
    if not dist.is_initialized():
        return
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
    joined = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(joined)
    joined /= dist.get_world_size()
    parts = joined.split([gradient.numel() for gradient in gradients])
    for parameter, part in zip(learning, parts, strict=True):
        parameter.grad = part.view_as(parameter).clone()


@torch.no_grad()
def share(module: nn.Module) -> None:
    """Gives all processes the first one's weights."""
    if dist.is_initialized():
        for value in module.state_dict().values():
            dist.broadcast(value, 0)


def agreed(decision: bool) -> bool:
    """The first process's decision; it decides to stop once it was interrupted, too."""
    if not dist.is_initialized():
        return decision
    said = torch.tensor(int(decision or _interrupted))
    dist.broadcast(said, 0)
    return bool(said)


def wait() -> None:
    """Until all processes are here: what the first one wrote is then there to be read."""
    if dist.is_initialized():
        dist.barrier()


def run_together(count: int, work: Callable[[int], Any]) -> None:
    """Runs ``work(number)`` in so many processes, numbered from 0, until all have ended.

    An interrupt is left to the first process, which stops all after the step that they are at.

    Args:
        count: at least 2.
        work: can be pickled.

    Raises:
        PixelReferError: what one of them raised; the others are ended.
    """
    errors: SimpleQueue[PixelReferError] = get_context("spawn").SimpleQueue()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with tempfile.TemporaryDirectory() as folder:
            spawn(_process, (count, Path(folder) / "meet", errors, work), nprocs=count)
    except (ProcessExitedException, ProcessRaisedException):  # also of one that waited for the other
        if errors.empty():
            raise
        raise errors.get() from None
    finally:
        signal.signal(signal.SIGINT, handler)


def _process(
    number: int, count: int, meet: Path, errors: SimpleQueue[PixelReferError], work: Callable[[int], Any]
) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a host's own name may not be known to it
    signal.signal(signal.SIGINT, partial(_interrupt, number))
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=number, world_size=count)
    try:
        work(number)
        wait()
    except PixelReferError as error:
        errors.put(error)
        raise SystemExit(1) from error
    finally:
        dist.destroy_process_group()


def _interrupt(number: int, *_: object) -> None:
    global _interrupted
    _interrupted = number == 0
