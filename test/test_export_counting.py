# SPDX-License-Identifier: Apache-2.0
"""The graphs' running sums are those of torch, and hold nothing but what TensorRT's matrix has."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from pixelrefer_ros.engines import unsupported
from pixelrefer_ros.export.counting import BLOCK, running_count, running_sum

torch.set_num_threads(1)
MOST = 4096


@given(count=st.integers(1, 300), share=st.sampled_from([0.0, 0.3, 1.0]), seed=st.integers(0, 1 << 16))
@example(count=MOST, share=1.0, seed=0)
@example(count=BLOCK, share=0.5, seed=0)
@example(count=BLOCK + 1, share=0.5, seed=0)
def test_running_count_is_the_cumulative_sum(count: int, share: float, seed: int) -> None:
    chosen = torch.rand(count, generator=torch.Generator().manual_seed(seed)) < share
    found = running_count(chosen)
    assert found.dtype == torch.int64 and torch.equal(found, chosen.long().cumsum(0))


@given(values=st.lists(st.integers(0, 1 << 20), min_size=1, max_size=40))
def test_running_sum_is_the_cumulative_sum(values: list[int]) -> None:
    whole = torch.tensor(values)
    found = running_sum(whole)
    assert found.dtype == torch.int64 and torch.equal(found, whole.cumsum(0))


class Counted(torch.nn.Module):
    """Both, as one graph."""

    def forward(self, chosen: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return running_count(chosen), running_sum(values)


@pytest.mark.timeout(600)  # an export, on a busy machine
def test_their_graph_takes_every_length_that_was_asked_for(tmp_path: Path) -> None:
    sizes = torch.export.Dim("N", min=1, max=MOST), torch.export.Dim("K", min=1, max=32)
    program = torch.export.export(
        Counted(),
        (torch.arange(55) % 3 > 0, torch.arange(3)),
        dynamic_shapes=({0: sizes[0]}, {0: sizes[1]}),
        strict=False,
    )
    path = tmp_path / "counted.onnx"
    exported = torch.onnx.export(
        program, dynamo=True, opset_version=20, input_names=["chosen", "values"], verbose=False
    )
    assert exported is not None
    exported.save(path)
    assert unsupported(onnx.load(path), 20) == []
    session = onnxruntime.InferenceSession(str(path))
    for count, few in ((1, 1), (BLOCK - 1, 2), (BLOCK, 16), (BLOCK + 1, 32), (MOST, 32)):
        chosen, values = torch.rand(count) < 0.4, torch.randint(0, 1000, (few,))
        counts, sums = session.run(None, {"chosen": chosen.numpy(), "values": values.numpy()})
        assert counts.tolist() == chosen.long().cumsum(0).tolist()
        assert sums.tolist() == values.cumsum(0).tolist()
