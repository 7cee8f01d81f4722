# SPDX-License-Identifier: Apache-2.0
"""The GPU memory that a TensorRT session runs in: for each kind of run its own, and had when it is opened."""

from __future__ import annotations

import engine_graphs
import pytest
import torch
from fake_tensorrt import FakeTensorRT, HostStream
from pixelrefer_ros.engines import BuildOptions, build_engine

from pixelrefer_ros.errors import BackendError
from pixelrefer_ros.runtime.manifest import Profile
from pixelrefer_ros.runtime.tensorrt_messages import logger_of
from pixelrefer_ros.runtime.tensorrt_session import TensorRtSession
from pixelrefer_ros.runtime.tensorrt_sizes import engine_graph

PROFILES = {"batch": Profile(1, 1, 3), "sequence": Profile(1, 8, 16)}
PROMPTS, STEPS = 0, 1


@pytest.fixture
def trt():
    return FakeTensorRT()


@pytest.fixture
def open_decoder(trt, tmp_path):
    """What opens a session over a small decoder, whose engine has a profile for prompts and one for steps."""
    models, caches = {"decoder": engine_graphs.decoder()}, engine_graphs.caches()
    graph = engine_graphs.write_folder(tmp_path, models, profiles=PROFILES, in_place=caches).graphs["decoder"]
    options = BuildOptions(workspace_mb=16)
    built = build_engine(trt, tmp_path, graph, precision="fp32", profiles=graph.profiles, options=options)
    engine = trt.Runtime(logger_of(trt)).deserialize_cuda_engine(built.plan)
    trt.calls.clear()
    return lambda: TensorRtSession(trt, engine, engine_graph(graph, built.profiles), HostStream(trt))


def test_the_memory_of_each_kind_of_run_is_set_aside_when_the_session_is_opened(trt, open_decoder):
    open_decoder()
    # That of prompts last: it is the most, and a context begins with it until it is given another profile.
    own = ("context", "ON_PROFILE_CHANGE")
    assert trt.calls == [own, ("profile", STEPS), own]


@pytest.mark.parametrize("full", [PROMPTS, STEPS])
def test_memory_that_torch_keeps_for_later_is_given_up_for_the_sessions(trt, open_decoder, full, monkeypatch):
    kept = [full]
    trt.room = lambda profile: profile not in kept
    monkeypatch.setattr(torch.cuda, "empty_cache", kept.clear)
    open_decoder()


@pytest.mark.parametrize("full", [PROMPTS, STEPS])
def test_want_of_memory_is_told_when_the_session_is_opened_with_the_remedy(trt, open_decoder, full):
    trt.room = lambda profile: profile != full
    said = (
        r"graph decoder: no execution context .*GPU memory could not be allocated\. If GPU memory.*--profile"
    )
    with pytest.raises(BackendError, match=said):
        open_decoder()
