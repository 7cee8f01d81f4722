# SPDX-License-Identifier: Apache-2.0
"""Attention of one head is split into two that compute the same."""

from __future__ import annotations

import engine_graphs
import numpy as np
import onnx
import onnxruntime
import pytest
from pixelrefer_ros.engines.attention import split_single_heads

QUERIES = 6


def computed(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feeds)[0]


@pytest.mark.parametrize("batch", [1, 3])
def test_a_masked_head_split_in_two_computes_the_same(batch):
    check_the_same(engine_graphs.attention(queries=QUERIES, masked=True), batch)


def test_the_one_head_of_one_entry_split_in_two_computes_the_same():
    check_the_same(engine_graphs.attention(queries=QUERIES, batch=1), 1)


def check_the_same(whole: onnx.ModelProto, batch: int) -> None:
    split = onnx.ModelProto.FromString(whole.SerializeToString())
    assert split_single_heads(split) == 1
    onnx.checker.check_model(split)
    (node,) = [node for node in split.graph.node if node.op_type == "Attention"]
    assert node.input[0] != "q" and list(node.input[1:3]) == ["k", "v"]

    random = np.random.default_rng(0)
    shape = (batch, 1, 8, engine_graphs.HEAD)
    feeds = {name: random.normal(size=shape).astype(np.float32) for name in ("k", "v")}
    feeds["q"] = random.normal(size=(batch, 1, QUERIES, engine_graphs.HEAD)).astype(np.float32)
    if len(node.input) == 4:
        feeds["mask"] = random.random((batch, 1, QUERIES, 8)) < 0.5
        feeds["mask"][..., 0] = True  # a query that sees nothing has no result
    # Sums of eight float32 in another order.
    np.testing.assert_allclose(computed(split, feeds), computed(whole, feeds), atol=1e-6)


@pytest.mark.parametrize(
    "kind",
    [
        {"heads": 2, "masked": True},
        {"masked": True, "queries": 7},
        {},
        {"heads": 2, "batch": 1},
    ],
    ids=["two heads", "odd number of queries", "several entries without a mask", "two heads of one entry"],
)
def test_attention_that_is_fused_or_cannot_be_split_is_left_alone(kind):
    model = engine_graphs.attention(**kind)
    before = model.SerializeToString()
    assert split_single_heads(model) == 0
    assert model.SerializeToString() == before


def test_the_small_decoder_is_left_alone():
    assert split_single_heads(engine_graphs.decoder("fp16")) == 0
