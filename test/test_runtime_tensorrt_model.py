# SPDX-License-Identifier: Apache-2.0
"""PixelRefer-Lite on TensorRT engines answers as on ONNX Runtime; ``tensorrt`` is the fake that computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exported_models import exported_tiny
from fake_tensorrt import FakeTensorRT, HostStream
from pixelrefer_ros.engines import Asked, build_engines

from pixelrefer_ros.model.compiled import open_network
from pixelrefer_ros.model.crops import global_image
from pixelrefer_ros.model.embedding import GraphEmbedding, HostEmbedding
from pixelrefer_ros.runtime import (
    GREEDY,
    AnswerRequest,
    Finish,
    OnnxRuntimeBackend,
    StreamingDetokeniser,
    decode,
    decode_together,
)
from pixelrefer_ros.runtime.tensorrt_backend import TensorRtBackend
from pixelrefer_ros.runtime.tensorrt_plans import Gpu

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(600)  # exports, on a busy machine
GPU = Gpu("NVIDIA GeForce RTX 4090", (8, 9), 24.0)
PROFILE = """
gpu_names: ["*"]
compute_capabilities: ["8.9"]
min_memory_gb: 0
precisions: [fp32]
patch_budget: 1024
objects: 2
context_length: 512
workspace_mb: 32
"""


def request(prompt, count):
    return AnswerRequest(
        prompt,
        StreamingDetokeniser(lambda _: b""),
        sampling=GREEDY,
        stop_ids=frozenset(),
        max_new_tokens=count,
    )


def answer(network, prompt, count=12):
    """Token ids of a greedy answer, and why it ended."""
    tokens = list(decode(network.decoder(), request(prompt, count)))
    return [token.token_id for token in tokens], tokens[-1].finish


@pytest.fixture(scope="module")
def trt():
    return FakeTensorRT()


@pytest.fixture(scope="module")
def engines(trt, tmp_path_factory):
    """The folder of the engines of the small export."""
    _, folder = exported_tiny(tmp_path_factory)
    own = tmp_path_factory.mktemp("engines")
    (own / "any.yaml").write_text(PROFILE)
    build_engines(folder, trt, GPU, Asked(str(own / "any.yaml"), own), say=lambda _: None)
    return own


@pytest.fixture(scope="module")
def networks(trt, engines, tmp_path_factory):
    """The same export on TensorRT (the fake) and on ONNX Runtime."""
    _, folder = exported_tiny(tmp_path_factory)
    backend = TensorRtBackend(engines, trt=trt, gpu=GPU, stream=HostStream(trt))
    cpu = torch.device("cpu")
    return trt, open_network(folder, backend, cpu), open_network(folder, OnnxRuntimeBackend(threads=1), cpu)


def test_pictures_and_answers_are_those_of_onnx_runtime(networks):
    trt, mine, theirs = networks
    rgb = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    found, expected = (network.encode_global(global_image(rgb)) for network in (mine, theirs))
    assert torch.equal(found.features, expected.features)

    prompt = theirs.prompt_embeddings(list(range(3, 40)), [])
    trt.calls.clear()
    found = answer(mine, prompt)
    # Eleven steps on the same caches: two as they are, the second recorded, the others replayed.
    assert [call[0] for call in trt.calls].count("replay") == 9
    assert found == answer(theirs, prompt)
    assert found[1] is Finish.LENGTH and len(set(found[0])) > 1


def test_a_second_answer_on_the_same_caches_needs_no_recording(networks):
    trt, mine, theirs = networks
    prompt = theirs.prompt_embeddings(list(range(3, 40)), [])
    answer(mine, prompt)
    trt.calls.clear()
    longer = theirs.prompt_embeddings([*range(3, 40), 7, 8, 9], [])
    assert answer(mine, longer) == answer(theirs, longer)
    assert "capture" not in [call[0] for call in trt.calls]


def test_the_table_of_tokens_takes_no_memory_of_the_gpu(networks, engines):
    _, mine, theirs = networks
    assert {path.name.split(".")[0] for path in engines.glob("*.plan")} == {"vision", "objects", "decoder"}
    assert isinstance(mine.embed, HostEmbedding) and isinstance(theirs.embed, GraphEmbedding)


def test_caches_have_the_capacity_of_the_engine(networks):
    _, mine, _ = networks
    graph = mine.language._decoder.graph
    assert {graph.input(name).shape[2] for name, _ in graph.in_place} == {512}


def test_answers_end_where_the_engine_or_the_export_does(networks):
    _, mine, theirs = networks
    assert (mine.decoder().context_length, theirs.decoder().context_length) == (512, 1024)


def test_answers_decoded_together_are_those_of_onnx_runtime_alone(networks):
    _, mine, theirs = networks
    prompts = [theirs.prompt_embeddings(list(range(3, 3 + length)), []) for length in (12, 30, 7)]
    requests = [request(prompt, count) for prompt, count in zip(prompts, (9, 4, 12), strict=True)]
    waiting, found = iter(requests), {request: [] for request in requests}
    for request_, event in decode_together(mine.decoder(), lambda: next(waiting, None), max_batch=8):
        found[request_].append(event.token_id)
    expected = [answer(theirs, asked.embeddings, asked.max_new_tokens)[0] for asked in requests]
    assert list(found.values()) == expected
