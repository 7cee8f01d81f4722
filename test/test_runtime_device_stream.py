# SPDX-License-Identifier: Apache-2.0
"""The CUDA stream's order and recordings, as torch is asked for them; what torch does then needs a GPU."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

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

    def recording(graph, *, stream, capture_error_mode):
        return noted("recording", graph.name, stream.name, capture_error_mode)

    def current(device):
        assert device == DEVICE, "not of the device that is current by chance"
        return Stream("the caller's")

    def made(device):
        assert device == DEVICE
        return Stream("its own")

    def graph():
        return SimpleNamespace(name="graph", replay=lambda: calls.append(("replay",)))

    for name, value in {
        "Stream": made,
        "current_stream": current,
        "stream": lambda stream: noted(stream.name),
        "CUDAGraph": graph,
        "graph": recording,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
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


def test_work_is_recorded_on_the_stream_itself_and_other_threads_may_allocate_meanwhile(asked):
    stream = CudaStream(DEVICE)
    assert stream.handle == 77
    replay = stream.capture(lambda: asked.append(("work",)))
    recording = ("recording", "graph", "its own", "thread_local")
    assert asked == [("enter", *recording), ("work",), ("leave", *recording)]
    asked.clear()
    with stream.queue():
        replay()
    assert asked == [("replay",) if call == ("work",) else call for call in QUEUED]


def test_what_cannot_be_recorded_is_told_and_the_recording_ended(asked):
    def work():
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        CudaStream(DEVICE).capture(work)
    assert [call[0] for call in asked] == ["enter", "leave"]
