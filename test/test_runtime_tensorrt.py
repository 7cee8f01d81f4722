# SPDX-License-Identifier: Apache-2.0
"""The TensorRT session against a fake ``tensorrt`` that computes with ONNX Runtime: no GPU is needed."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace

import engine_graphs
import pytest
import torch
from fake_tensorrt import FakeTensorRT, HostStream
from fake_tensorrt_values import TensorLocation
from pixelrefer_ros.engines import BuildOptions, build_engine

from pixelrefer_ros.errors import BackendError
from pixelrefer_ros.runtime import OnnxRuntimeBackend
from pixelrefer_ros.runtime.manifest import Profile
from pixelrefer_ros.runtime.tensorrt_messages import logger_of
from pixelrefer_ros.runtime.tensorrt_session import TensorRtSession
from pixelrefer_ros.runtime.tensorrt_sizes import engine_graph

PROFILES = {"batch": Profile(1, 1, 3), "sequence": Profile(1, 8, 16), "rows": Profile(0, 2, 4)}
NEW, OLD = "10.15.1.29", "10.3.0"


def open_small(folder, name, model, version=NEW, in_place=()):
    """A session of the fake over a small graph, its engine, and ONNX Runtime over the same graph."""
    trt = FakeTensorRT(version)
    graph = engine_graphs.write_folder(folder, {name: model}, profiles=PROFILES, in_place=in_place).graphs[
        name
    ]
    options = BuildOptions(workspace_mb=16)
    built = build_engine(trt, folder, graph, precision="fp32", profiles=graph.profiles, options=options)
    engine = trt.Runtime(logger_of(trt)).deserialize_cuda_engine(built.plan)
    trt.calls.clear()
    of_engine = engine_graph(graph, built.profiles)
    session = TensorRtSession(trt, engine, of_engine, HostStream(trt))
    return SimpleNamespace(
        trt=trt,
        engine=engine,
        graph=of_engine,
        session=session,
        reference=OnnxRuntimeBackend("cpu").open(folder, graph),
    )


@pytest.fixture
def projection(tmp_path):
    return open_small(tmp_path, "vision", engine_graphs.projection())


@pytest.fixture(params=[NEW, OLD], ids=["aliased", "copied back"])
def decoder(request, tmp_path):
    model = engine_graphs.decoder()
    if request.param == OLD:
        # Old versions read opset 20 only; the fake is told to take this graph, and then aliases nothing.
        opened = open_small(tmp_path, "decoder", model, NEW, engine_graphs.caches())
        opened.trt.__version__ = OLD
        del opened.engine.get_aliased_input_tensor
        opened.session = TensorRtSession(opened.trt, opened.engine, opened.graph, HostStream(opened.trt))
        return opened
    return open_small(tmp_path, "decoder", model, NEW, engine_graphs.caches())


def empty_caches(graph, batch=1):
    return {
        name: torch.zeros([batch, *graph.input(name).shape[1:]], dtype=torch.float32)
        for name, _ in graph.in_place
    }


def step_feeds(caches, start, length=1, batch=1):
    generator = torch.Generator().manual_seed(start)
    embeds = torch.randn(batch, length, engine_graphs.WIDTH, generator=generator)
    return {"inputs_embeds": embeds, "start": torch.full((batch,), start), **caches}


def names(trt):
    return [call[0] for call in trt.calls]


def test_a_run_gives_what_onnx_runtime_gives(projection):
    x = torch.randn(3, engine_graphs.WIDTH, generator=torch.Generator().manual_seed(0))
    found = projection.session.run({"x": x})
    # The fake computes with ONNX Runtime too: only the memory it was given could make a difference.
    assert torch.equal(found["y"], projection.reference.run({"x": x})["y"])


def test_a_run_is_queued_between_the_callers_work(projection):
    projection.session.run({"x": torch.zeros(2, engine_graphs.WIDTH)})
    assert names(projection.trt) == ["context", "queue", "execute", "joined"]
    assert projection.trt.calls[2] == ("execute", 77, 0)


def test_the_context_is_made_once(projection):
    for rows in (1, 4, 2):
        projection.session.run({"x": torch.zeros(rows, engine_graphs.WIDTH)})
    assert names(projection.trt).count("context") == 1


def test_outputs_are_the_callers(projection):
    first = projection.session.run({"x": torch.ones(2, engine_graphs.WIDTH)})["y"]
    kept = first.clone()
    projection.session.run({"x": -torch.ones(2, engine_graphs.WIDTH)})
    assert torch.equal(first, kept)


def test_an_empty_input_gets_an_address_all_the_same(projection):
    assert projection.session.run({"x": torch.zeros(0, engine_graphs.WIDTH)})["y"].shape == (0, 64)


def test_an_input_that_lies_askew_in_memory_is_copied(projection):
    rows = torch.randn(engine_graphs.WIDTH + 1, generator=torch.Generator().manual_seed(0))
    askew = rows[1:][None]
    assert askew.data_ptr() % projection.session._stream.alignment != 0
    found = projection.session.run({"x": askew})["y"]
    assert torch.equal(found, projection.reference.run({"x": askew.clone()})["y"])


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({}, "missing: \\['x'\\]"),
        ({"x": torch.zeros(1, 64), "y": torch.zeros(1)}, "unknown: \\['y'\\]"),
        ({"x": torch.zeros(1, 65)}, "must be of shape"),
        ({"x": torch.zeros(1, 64, dtype=torch.float16)}, "must be float32"),
        ({"x": torch.zeros(5, 64)}, "rows is 5; it must be from 0 to 4"),
        ({"x": torch.zeros(64, 2).t()}, "not contiguous"),
        ({"x": torch.zeros(1, 64, device="meta")}, "x is on meta; it must be on cpu"),
    ],
)
def test_wrong_feeds_are_told_before_tensorrt_sees_them(projection, feeds, said):
    with pytest.raises(ValueError, match=said):
        projection.session.run(feeds)
    assert "execute" not in names(projection.trt)


def test_a_run_that_fails_gives_tensorrts_reason_and_the_next_one_works(projection):
    projection.trt.run_error = "out of memory"
    with pytest.raises(BackendError, match="graph vision: the run failed: out of memory"):
        projection.session.run({"x": torch.zeros(1, 64)})
    projection.trt.run_error = None
    assert projection.session.run({"x": torch.zeros(1, 64)})["y"].shape == (1, 64)


def test_what_tensorrt_warns_of_at_each_run_is_logged_once(projection, caplog):
    projection.trt.run_warnings = ["Using default stream"]
    for _ in range(3):
        projection.session.run({"x": torch.zeros(1, 64)})
    assert caplog.messages == ["TensorRT: Using default stream"]


def test_a_closed_session_says_so(projection):
    projection.session.close()
    projection.session.close()
    with pytest.raises(BackendError, match="closed"):
        projection.session.run({"x": torch.zeros(1, 64)})


def test_an_engine_of_another_graph_is_refused(projection):
    spec = replace(projection.graph.inputs[0], dtype="float16")
    wrong = replace(projection.graph, inputs=(spec,))
    with pytest.raises(
        BackendError, match=r"engine has x as \('input', 'float32'\).*build the engines again"
    ):
        TensorRtSession(projection.trt, projection.engine, wrong, HostStream(projection.trt))


def test_an_engine_that_reads_values_on_the_host_is_refused(projection):
    projection.engine.locations["x"] = TensorLocation.HOST
    with pytest.raises(BackendError, match="wants input x in host memory"):
        TensorRtSession(projection.trt, projection.engine, projection.graph, HostStream(projection.trt))


def test_caches_are_updated_in_place_and_steps_give_what_onnx_runtime_gives(decoder):
    mine, theirs = empty_caches(decoder.graph), empty_caches(decoder.graph)
    feeds = step_feeds(mine, 0, length=5)
    found = decoder.session.run(feeds)
    expected = decoder.reference.run(step_feeds(theirs, 0, length=5))
    for position in range(5, 12):
        assert torch.allclose(found["hidden"], expected["hidden"], atol=1e-6)  # one library, same order
        for name, output in decoder.graph.in_place:
            assert found[output] is mine[name]
            assert torch.equal(mine[name], theirs[name])
        found = decoder.session.run(step_feeds(mine, position))
        expected = decoder.reference.run(step_feeds(theirs, position))
    assert mine["past_key_0"].abs().sum() > 0
    assert names(decoder.trt).count("replay") == 5


def test_a_step_is_recorded_when_it_comes_again_and_replayed_from_then_on(decoder):
    caches = empty_caches(decoder.graph)
    calls = []
    for position in range(4):
        decoder.trt.calls.clear()
        decoder.session.run(step_feeds(caches, position))
        calls.append([name for name in names(decoder.trt) if name not in ("queue", "joined")])
    assert calls == [
        ["execute"],
        ["execute", "capture"],  # the run settles the sizes, the recording itself computes nothing
        ["replay"],
        ["replay"],
    ]
    assert ("profile", 1) not in decoder.trt.calls


def test_a_step_uses_the_profile_of_steps_and_a_prompt_that_of_any_size(decoder):
    caches = empty_caches(decoder.graph)
    decoder.session.run(step_feeds(caches, 0, length=4))
    decoder.session.run(step_feeds(caches, 4))
    assert [call for call in decoder.trt.calls if call[0] == "execute"] == [
        ("execute", 77, 0),
        ("execute", 77, 1),
    ]


def test_several_prompts_at_once_are_refused_by_name(decoder):
    caches = empty_caches(decoder.graph, batch=3)
    with pytest.raises(
        ValueError, match=r"batch is 3, sequence is 4; a run that is no single step must have at most batch 2"
    ):
        decoder.session.run(step_feeds(caches, 0, length=4, batch=3))
    assert "execute" not in names(decoder.trt)
    assert decoder.session.run(step_feeds(caches, 0, batch=3))["hidden"].shape == (3, 1, 64)


def test_other_caches_or_sizes_are_recorded_anew(decoder):
    first, second = empty_caches(decoder.graph), empty_caches(decoder.graph)
    for caches in (first, first, first, second, second, second):
        decoder.session.run(step_feeds(caches, 0))
    assert names(decoder.trt).count("capture") == 2
    assert names(decoder.trt).count("replay") == 2
    assert all(torch.equal(first[name], second[name]) for name in first)
    batched = empty_caches(decoder.graph, batch=2)
    found = decoder.session.run(step_feeds(batched, 0, batch=2))
    assert found["hidden"].shape == (2, 1, 64)


def test_a_prompt_between_steps_leaves_the_recording_valid(decoder):
    mine, other, theirs = (empty_caches(decoder.graph) for _ in range(3))
    for position in range(3):
        decoder.session.run(step_feeds(mine, position))
        decoder.reference.run(step_feeds(theirs, position))
    decoder.session.run(step_feeds(other, 0, length=6))
    found = decoder.session.run(step_feeds(mine, 3))
    expected = decoder.reference.run(step_feeds(theirs, 3))
    assert names(decoder.trt).count("replay") == 2
    assert torch.allclose(found["hidden"], expected["hidden"], atol=1e-6)


def test_replays_do_not_write_to_outputs_given_out_before(decoder):
    caches = empty_caches(decoder.graph)
    given_out = [decoder.session.run(step_feeds(caches, position))["hidden"] for position in range(4)]
    kept = [hidden.clone() for hidden in given_out]
    decoder.session.run(step_feeds(caches, 4))
    assert all(torch.equal(hidden, copy) for hidden, copy in zip(given_out, kept, strict=True))
    assert len({hidden.data_ptr() for hidden in given_out}) == 4


def test_where_steps_cannot_be_recorded_they_run_as_they_are(decoder, caplog):
    decoder.trt.unrecordable = True
    mine, theirs = empty_caches(decoder.graph), empty_caches(decoder.graph)
    for position in range(5):
        found = decoder.session.run(step_feeds(mine, position))
        expected = decoder.reference.run(step_feeds(theirs, position))
        assert torch.allclose(found["hidden"], expected["hidden"], atol=1e-6)
    assert names(decoder.trt).count("capture") == 1 and "replay" not in names(decoder.trt)
    assert caplog.text.count("steps are not recorded") == 1


def test_what_another_thread_runs_while_a_step_is_recorded_is_no_part_of_the_recording(
    decoder, tmp_path, monkeypatch
):
    vision = open_small(tmp_path / "other", "vision", engine_graphs.projection())
    stream, vision.engine.trt = decoder.session._stream, decoder.trt
    beside = TensorRtSession(decoder.trt, vision.engine, vision.graph, stream)
    x = torch.randn(3, engine_graphs.WIDTH, generator=torch.Generator().manual_seed(0))
    found, capture = [], stream.capture
    other = threading.Thread(target=lambda: found.append(beside.run({"x": x})["y"]))

    def interrupted(work):
        def both():
            other.start()
            other.join(0.3)  # the time it takes if nothing holds it back
            work()

        return capture(both)

    monkeypatch.setattr(stream, "capture", interrupted)
    caches = empty_caches(decoder.graph)
    for position in range(2):
        decoder.session.run(step_feeds(caches, position))
    other.join(10.0)
    assert torch.equal(found[0], vision.reference.run({"x": x})["y"])


def test_a_cache_within_another_tensor_is_refused(decoder):
    caches = empty_caches(decoder.graph)
    room = torch.zeros(caches["past_key_0"].numel() + 1)
    caches["past_key_0"] = room[1:].view(caches["past_key_0"].shape)
    with pytest.raises(ValueError, match="past_key_0 starts at an address"):
        decoder.session.run(step_feeds(caches, 0))
