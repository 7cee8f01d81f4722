# SPDX-License-Identifier: Apache-2.0
"""One module to one ``.onnx`` file: where its weights lie, and what cannot be exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pixelrefer_ros.export import check_choices, export_graph
from pixelrefer_ros.export.graph import GraphPlan

from pixelrefer_ros.errors import ParameterError, PixelReferError
from pixelrefer_ros.runtime import OnnxRuntimeBackend, Profile, newest_opset

torch.set_num_threads(1)


class LookUp(torch.nn.Module):
    """Rows of a table of 64 KiB, moved by a smaller one."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(512, 32), requires_grad=False)
        self.moved = torch.nn.Parameter(torch.randn(8, 32), requires_grad=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table.index_select(0, ids) + self.moved.index_select(0, ids % 8)


@pytest.mark.parametrize("opset", [20, 24])
@pytest.mark.parametrize(
    ("largest", "on_host", "apart"),
    [(1000, False, 65536 + 1024), (1 << 30, True, 65536), (1 << 30, False, 0)],
)
def test_large_weights_and_tables_lie_in_a_file_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opset: int, largest: int, on_host: bool, apart: int
) -> None:
    if opset > newest_opset():
        pytest.skip("this onnxruntime has no opset 24")
    monkeypatch.setattr("pixelrefer_ros.export.graph.LARGEST_FILE", largest)
    module, ids = LookUp(), torch.tensor([3, 40, 511])
    plan = GraphPlan(
        "rows", module, {"ids": ids}, {"ids": {0: "L"}}, ["y"], {"L": Profile(1, 2, 8)}, on_host=on_host
    )
    graph = export_graph(plan, tmp_path, opset=opset)
    assert [data.file for data in graph.data] == (["rows.onnx.data"] if apart else [])
    assert sum((tmp_path / data.file).stat().st_size for data in graph.data) == apart
    assert ((tmp_path / "rows.onnx").stat().st_size < 8000) == (apart > 0)
    session = OnnxRuntimeBackend(threads=1).open(tmp_path, graph)
    assert torch.equal(session.run({"ids": ids})["y"], module(ids))


@pytest.mark.parametrize(
    ("precision", "opset", "message"),
    [("fp8", 24, "precision is 'fp8'"), ("fp32", 21, "opset is 21"), ("int4", 20, "int4 needs opset 24")],
)
def test_choices_that_cannot_be_exported_are_refused(precision: str, opset: int, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        check_choices(precision, opset)


class Found(torch.nn.Module):
    """Its output has a size that no input has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.nonzero()


def test_output_of_a_size_that_no_input_has_is_refused(tmp_path: Path) -> None:
    plan = GraphPlan(
        "found", Found(), {"x": torch.ones(3)}, {"x": {0: "N"}}, ["places"], {"N": Profile(1, 2, 8)}
    )
    with pytest.raises(PixelReferError, match=r"graph found: output places has shape .*\(N\)"):
        export_graph(plan, tmp_path, opset=20)
