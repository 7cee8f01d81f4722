# SPDX-License-Identifier: Apache-2.0
"""The CUDA stream's order and recordings, as torch is asked for them; what torch does then needs a GPU."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from pixelrefer_ros.errors import BackendError
from pixelrefer_ros.runtime.device_stream import CudaStream

DEVICE = torch.device("cuda", 1)


@pytest.fixture
def asked(monkeypatch):
    """What torch is asked for, in order; of its streams there are "the caller's" and "its own"."""
    calls: list[tuple[object, ...]] = []

    class Stream:
        def __init__(self, name):
            self.name, self.cuda_stream = name, 77

        def wait_stream(self, other):
            calls.append((self.name, "waits for", other.name))

    @contextmanager
    def noted(*what):
        calls.append(("enter", *what))
        try:
            yield
        finally:
            calls.append(("leave", *what))

    class Graph:
        def capture_begin(self, *, pool, capture_error_mode):
            calls.append(("begin", pool, capture_error_mode))
            self.of = pool

        def capture_end(self):
            calls.append(("end",))

        def pool(self):
            return self.of

        def replay(self):
            calls.append(("replay",))

    def current(device):
        assert device == DEVICE, "not of the device that is current by chance"
        return Stream("the caller's")

    def made(device):
        assert device == DEVICE
        return Stream("its own")

    for name, value in {
        "Stream": made,
        "current_stream": current,
        "stream": lambda stream: noted(stream.name),
        "CUDAGraph": Graph,
        "graph_pool_handle": lambda: "pool",
        "synchronize": lambda *_: calls.append(("wait for the GPU",)),
        "empty_cache": lambda: calls.append(("free what is cached",)),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, "zeros", lambda *_, device: calls.append(("keeper",)))
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *of: calls.append(("left", *of)))
    monkeypatch.setattr(
        torch._C, "_cuda_releasePool", lambda *of: calls.append(("released", *of)), raising=False
    )
    return calls


QUEUED = [
    ("its own", "waits for", "the caller's"),
    ("enter", "its own"),
    ("work",),
    ("leave", "its own"),
    ("the caller's", "waits for", "its own"),
]


def test_work_is_queued_after_the_callers_earlier_work_and_before_its_later_work(asked):
    stream = CudaStream(DEVICE)
    with stream.queue():
        asked.append(("work",))
    assert asked == QUEUED


def test_the_caller_waits_for_what_was_queued_also_when_queueing_fails(asked):
    # Part of the work may be on its way, and reads memory that the caller would else free or write to.
    stream = CudaStream(DEVICE)
    with pytest.raises(RuntimeError, match="no more"), stream.queue():
        asked.append(("work",))
        raise RuntimeError("no more")
    assert asked == QUEUED


def recording(*calls, ended=()):
    """A recording on the stream itself; thread-local, so other threads may allocate meanwhile."""
    begin = ("begin", "pool", "thread_local")
    return [("enter", "its own"), begin, *calls, ("end",), *ended, ("leave", "its own")]


def test_work_is_recorded_on_the_stream_itself_without_a_wait_for_the_whole_gpu(asked):
    stream = CudaStream(DEVICE)
    assert stream.handle == 77
    replay = stream.capture(lambda: asked.append(("work",)))
    assert asked == [*recording(("keeper",)), *recording(("work",))]
    asked.clear()
    with stream.queue():
        replay()
    assert asked == [("replay",) if call == ("work",) else call for call in QUEUED]


def test_all_recordings_of_a_stream_use_one_pool_which_a_small_one_keeps(asked, monkeypatch):
    pools = iter(("first", "second"))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(pools))
    stream = CudaStream(DEVICE)
    for _ in range(3):
        stream.capture(lambda: None)
    assert [call[1] for call in asked if call[0] == "begin"] == ["first"] * 4
    assert asked.count(("keeper",)) == 1


def test_what_cannot_be_recorded_is_told_and_the_recording_ended(asked):
    def work():
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        CudaStream(DEVICE).capture(work)
    assert asked == [*recording(("keeper",)), *recording()]


@pytest.fixture
def given_up(asked, monkeypatch):
    """A stream whose recordings CUDA gives up."""
    stream = CudaStream(DEVICE)
    stream.capture(lambda: None)
    asked.clear()

    def end(graph):
        asked.append(("end",))
        raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(torch.cuda.CUDAGraph, "capture_end", end)
    return stream


LEFT = [("left", 1, "pool"), ("released", 1, "pool")]


def test_a_recording_that_cannot_be_ended_leaves_the_stream_and_the_pool_all_the_same(asked, given_up):
    with pytest.raises(RuntimeError, match="due to a previous error"):
        given_up.capture(lambda: None)
    assert asked == recording(ended=LEFT)


def test_of_work_that_breaks_a_recording_its_own_reason_is_told(asked, given_up):
    def work():
        raise BackendError("TensorRT refuses to run while it is recorded")

    with pytest.raises(BackendError, match="TensorRT refuses"):
        given_up.capture(work)
    assert asked == recording(ended=LEFT)


@pytest.mark.parametrize("known", ["_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool", None])
def test_the_pool_is_left_by_the_function_that_this_torch_has(asked, given_up, monkeypatch, known):
    monkeypatch.delattr(torch._C, "_cuda_endAllocateToPool")
    if known is not None:
        monkeypatch.setattr(torch._C, known, lambda *of: asked.append(("left", *of)), raising=False)
    with pytest.raises(RuntimeError, match="due to a previous error"):
        given_up.capture(lambda: None)
    assert asked == recording(ended=LEFT if known else ())


def test_a_pool_that_was_left_before_is_not_released_twice(asked, given_up, monkeypatch):
    def leave(*_):
        raise RuntimeError("endAllocatePool: not currently recording to mempool_id")

    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", leave)
    with pytest.raises(RuntimeError, match="due to a previous error"):
        given_up.capture(lambda: None)
    assert asked == recording()


def test_a_recording_that_lacks_memory_is_made_once_more_after_torch_freed_what_it_caches(asked):
    tries = iter((torch.cuda.OutOfMemoryError("out of memory"), None))

    def work():
        asked.append(("work",))
        error = next(tries)
        if error is not None:
            raise error

    CudaStream(DEVICE).capture(work)
    again = [*recording(("work",)), ("free what is cached",), *recording(("work",))]
    assert asked == [*recording(("keeper",)), *again]
