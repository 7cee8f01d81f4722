# SPDX-License-Identifier: Apache-2.0
"""``manifest.json`` is read as it was written, and every fault names file, field and remedy."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pixelrefer_ros.errors import CheckpointError
from pixelrefer_ros.runtime import (
    DataFile,
    Graph,
    Manifest,
    Profile,
    TensorSpec,
    check_feeds,
    file_hash,
    is_exported,
    read_manifest,
    verify_graph,
    write_manifest,
)

GRAPH = Graph(
    name="decoder",
    file="decoder.onnx",
    sha256="00",
    inputs=(TensorSpec("x", "float32", (1, "S", 4)), TensorSpec("past", "float16", (1, "S"))),
    outputs=(TensorSpec("y", "float32", (1, "S")), TensorSpec("present", "float16", (1, "S"))),
    data=(DataFile("decoder.onnx.data", "01"),),
    in_place=(("past", "present"),),
    profiles={"S": Profile(1, 8, 16)},
)
TABLE = replace(GRAPH, name="embed", data=(DataFile("embed.onnx.data", "02"),), on_host=True)
MANIFEST = Manifest(
    kind="pixelrefer-lite",
    name="tiny",
    source={"name": "tiny", "content_hash": "ab"},
    precision="fp32",
    opset=24,
    versions={"torch": "2"},
    settings={"patch_budget": 4096, "nested": {"a": [1, 2.5, None]}},
    graphs={"decoder": GRAPH, "embed": TABLE},
)


def test_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert not is_exported(tmp_path)
    write_manifest(tmp_path, MANIFEST)
    assert is_exported(tmp_path)
    assert read_manifest(tmp_path) == MANIFEST
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_full_disk_leaves_the_manifest_that_was_there_and_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_manifest(tmp_path, MANIFEST)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_manifest(tmp_path, replace(MANIFEST, name="another"))
    assert read_manifest(tmp_path) == MANIFEST
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def change(folder: Path, spoil: Callable[[dict[str, Any]], Any]) -> None:
    path = write_manifest(folder, MANIFEST)
    content = json.loads(path.read_text(encoding="utf-8"))
    spoil(content)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda m: m.update(format=2), "format is 2"),
        (lambda m: m.pop("format"), "format is missing"),
        (lambda m: m.update(kind="other"), "kind is 'other'"),
        (lambda m: m.update(opset=18), "opset is 18"),
        (lambda m: m.update(precision="fp8"), "precision is 'fp8'"),
        (lambda m: m.update(graphs=[]), "graphs is []"),
        (lambda m: m["graphs"].update(decoder=3), "graphs.decoder is 3"),
        (lambda m: m["graphs"].update({"../x": m["graphs"]["decoder"]}), "graphs has a field '../x'"),
        (lambda m: m["graphs"].update({"": m["graphs"]["decoder"]}), "graphs has a field ''"),
        (lambda m: m["graphs"]["decoder"].update(file="../x.onnx"), "graphs.decoder.file is '../x.onnx'"),
        (lambda m: m["graphs"]["decoder"]["data"][0].update(file="/x"), "graphs.decoder.data.file is '/x'"),
        (lambda m: m["graphs"]["decoder"].pop("sha256"), "graphs.decoder.sha256 is missing"),
        (lambda m: m["graphs"]["decoder"]["inputs"].append(None), "graphs.decoder.inputs is a JSON NoneType"),
        (lambda m: m["graphs"]["decoder"]["inputs"][0].update(dtype="str"), "inputs.dtype is 'str'"),
        (lambda m: m["graphs"]["decoder"]["inputs"][0].update(shape=[1.5]), "inputs.shape is [1.5]"),
        (lambda m: m["graphs"]["decoder"]["in_place"].append(["past", "z"]), "in_place is ['past', 'z']"),
        (lambda m: m["graphs"]["decoder"]["profiles"]["S"].update(min=9), "profiles.S is"),
        (lambda m: m["graphs"]["decoder"].update(on_host=1), "graphs.decoder.on_host is 1"),
        (lambda m: m["graphs"]["decoder"].update(on_host=True, data=[]), "graphs.decoder.data is 0 files"),
    ],
)
def test_fault_is_named_with_file_field_and_remedy(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], Any], named: str
) -> None:
    change(tmp_path, spoil)
    with pytest.raises(CheckpointError) as raised:
        read_manifest(tmp_path)
    assert named in str(raised.value)
    assert "manifest.json" in str(raised.value)
    assert "pixelrefer export" in str(raised.value)


@pytest.mark.parametrize("text", ["{", "[]", "\x00", "3"])
def test_text_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_missing_manifest_and_missing_graph_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is missing"):
        read_manifest(tmp_path)
    with pytest.raises(CheckpointError, match="no 'vision'"):
        MANIFEST.graph("vision", tmp_path)


def test_changed_and_missing_files_are_found(tmp_path: Path) -> None:
    weights, network = tmp_path / "decoder.onnx.data", tmp_path / "decoder.onnx"
    weights.write_bytes(b"weights")
    network.write_bytes(b"network")
    graph = Graph(
        name="decoder",
        file=network.name,
        sha256=file_hash(network),
        inputs=(),
        outputs=(),
        data=(DataFile(weights.name, file_hash(weights)),),
    )
    verify_graph(tmp_path, graph)
    weights.write_bytes(b"weightz")
    with pytest.raises(CheckpointError, match=r"decoder\.onnx\.data has sha256"):
        verify_graph(tmp_path, graph)
    weights.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        verify_graph(tmp_path, graph)


def feeds(**others: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"x": torch.zeros(1, 3, 4), "past": torch.zeros(1, 3, dtype=torch.float16)} | others


def test_feeds_that_fit_give_the_sizes_of_the_symbols() -> None:
    assert check_feeds(GRAPH, feeds()) == {"S": 3}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (feeds(z=torch.zeros(1)), "unknown: \\['z'\\]"),
        ({"x": torch.zeros(1, 3, 4)}, "missing: \\['past'\\]"),
        (feeds(x=torch.zeros(1, 3, 5)), "x is torch.float32 of shape \\[1, 3, 5\\]"),
        (feeds(x=torch.zeros(1, 3, 4, dtype=torch.float64)), "x is torch.float64"),
        (feeds(past=torch.zeros(1, 4, dtype=torch.float16)), "past is torch.float16 of shape \\[1, 4\\]"),
        (feeds(x=torch.zeros(1, 4, 3).transpose(1, 2)), "not contiguous"),
        (
            {"x": torch.zeros(1, 17, 4), "past": torch.zeros(1, 17, dtype=torch.float16)},
            "S is 17; it must be from 1 to 16",
        ),
    ],
)
def test_feeds_that_do_not_fit_are_refused(wrong: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_feeds(GRAPH, wrong)
