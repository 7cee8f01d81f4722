# SPDX-License-Identifier: Apache-2.0
"""A stream on the CPU that records operations and replays them on the same memory, as a CUDA graph does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recording(TorchDispatchMode):
    """Notes operations with the memory they read and write, as a CUDA graph does."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not all(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(out)):
            raise RuntimeError("the host may not look at values while a stream is recorded")
        self.operations.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, out in self.operations:
            for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.copy_(new)


class RecordedStream:
    """A `DeviceStream` on the CPU."""

    device, alignment, handle = torch.device("cpu"), 64, 0

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.lock = threading.Lock()
        self.recordable = True

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self.lock:
            yield

    @contextmanager
    def queue(self) -> Iterator[None]:
        assert self.lock.locked()
        yield

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        assert self.lock.locked()
        self.calls.append("capture")
        with Recording() as recording:
            work()
            if not self.recordable:
                torch.ones(1).item()

        def replay() -> None:
            self.calls.append("replay")
            recording.replay()

        return replay
