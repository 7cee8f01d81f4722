# SPDX-License-Identifier: Apache-2.0
"""The CUDA stream that sessions run on: all that they ask of the device itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

import torch


class DeviceStream(Protocol):
    """A queue of work on a device, which sessions in several threads may share.

    Attributes:
        device: whose memory the sessions' tensors are in.
        alignment: of addresses, in bytes.
        handle: of the stream, as TensorRT takes it.
    """

    device: torch.device
    alignment: int
    handle: int

    def alone(self) -> AbstractContextManager[None]:
        """Within the block no other thread has the stream, and its device is the current one; not reentrant.

        What another thread queued while `capture` records would become part of the recording.
        """
        ...

    def queue(self) -> AbstractContextManager[None]:
        """Work within the block starts after the caller's earlier work, and the caller's later work after it.

        So tensors that the caller's stream has allocated may be used within, and freed afterwards.
        """
        ...

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Records what `work` queues, without running it, and returns what runs it (within `queue`).

        Recordings share the memory that their work allocates: what a run writes there must be read before the
        next run, of whichever recording.

        Raises:
            RuntimeError: something in it cannot be recorded.
        """
        ...


class CudaStream:
    """A stream of its own: on the default stream TensorRT would wait for the whole device at each run.

    Args:
        device: a CUDA device.
    """

    alignment = 256

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)
        self.handle = int(self._stream.cuda_stream)
        self._lock = threading.Lock()
        self._keeper: torch.cuda.CUDAGraph | None = None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """See `DeviceStream`."""
        with self._lock, torch.cuda.device(self.device):
            yield

    @contextmanager
    def queue(self) -> Iterator[None]:
        """See `DeviceStream`."""
        caller = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(caller)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            caller.wait_stream(self._stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """See `DeviceStream`."""
        if self._keeper is None:
            # The pool of memory of all recordings lives as long as one of them. With a pool for each, those
            # of recordings that are gone would pile up: torch frees them only when it lacks memory.
            self._keeper = self._recorded(
                lambda: torch.zeros(1, device=self.device), torch.cuda.graph_pool_handle()
            )
        try:
            return self._recorded(work, self._keeper.pool()).replay
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()  # torch does so by itself, but not while it records
            return self._recorded(work, self._keeper.pool()).replay

    def _recorded(self, work: Callable[[], object], pool: Any) -> torch.cuda.CUDAGraph:
        # Not with `torch.cuda.graph`: before each recording it waits for all that the GPU does, the tracker's
        # work too, and after one that cannot be ended it leaves this stream the thread's current one.
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            try:
                # Thread-local: the tracker's thread goes on allocating, which would break a global capture.
                graph.capture_begin(pool=pool, capture_error_mode="thread_local")
                work()
            except BaseException:
                with suppress(RuntimeError):  # why the work failed says more
                    self._end(graph, pool)
                raise
            self._end(graph, pool)
        return graph

    def _end(self, graph: torch.cuda.CUDAGraph, pool: Any) -> None:
        try:
            graph.capture_end()
        except RuntimeError:
            _leave_pool(self.device.index, pool)
            raise


def _leave_pool(device: int, pool: Any) -> None:
    """What `CUDAGraph.capture_end` leaves undone where CUDA gave the recording up.

    As long as torch takes a recording to be underway it frees no cached memory when it lacks some, nor what
    several streams have used.
    """
    # Of torch 2.8 and later, and of before.
    names = ("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool")
    leave = next((getattr(torch._C, name) for name in names if hasattr(torch._C, name)), None)
    if leave is not None:
        with suppress(RuntimeError, TypeError):  # it was left before; or a later torch takes other arguments
            leave(device, pool)
            torch._C._cuda_releasePool(device, pool)
