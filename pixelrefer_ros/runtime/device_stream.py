# SPDX-License-Identifier: Apache-2.0
"""The CUDA stream that sessions run on: all that they ask of the device itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

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
        """See the class."""
        self.device = device
        self._stream = torch.cuda.Stream(device)
        self.handle = int(self._stream.cuda_stream)
        self._lock = threading.Lock()

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
        graph = torch.cuda.CUDAGraph()
        # Thread-local: the tracker's thread goes on allocating meanwhile, which would break a global capture.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            work()
        return graph.replay
