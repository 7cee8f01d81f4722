# SPDX-License-Identifier: Apache-2.0
"""Tokens are embedded alike by the exported graph and by the table in the host's memory."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exported_models import exported_tiny

from pixelrefer_ros.errors import CheckpointError
from pixelrefer_ros.model import PixelReferNetwork, load_network
from pixelrefer_ros.model.compiled import CompiledNetwork, open_network
from pixelrefer_ros.model.embedding import Embedding, GraphEmbedding, HostEmbedding, read_table
from pixelrefer_ros.runtime import OnnxRuntimeBackend, read_manifest

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(600)  # exports, on a busy machine
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=[24, 20], ids=["opset 24", "opset 20"])
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return exported_tiny(tmp_path_factory, opset=request.param)


@pytest.fixture(scope="module")
def reference(folders: tuple[Path, Path]) -> PixelReferNetwork:
    return load_network(folders[0], device=CPU, dtype=torch.float32)


def opened(folder: Path, *, on_host: bool) -> CompiledNetwork:
    backend = OnnxRuntimeBackend(threads=1)
    backend.host_tables = on_host  # as with a GPU
    return open_network(folder, backend, CPU)


@pytest.fixture(scope="module", params=[False, True], ids=["graph", "host"])
def compiled(request: pytest.FixtureRequest, folders: tuple[Path, Path]) -> CompiledNetwork:
    network = opened(folders[1], on_host=request.param)
    assert isinstance(network.embed, HostEmbedding if request.param else GraphEmbedding)
    return network


def test_prompts_get_their_objects_at_their_places(
    compiled: CompiledNetwork, reference: PixelReferNetwork
) -> None:
    region = reference.config.region_token_id
    assert region is not None
    objects = [torch.randn(2, 128), torch.randn(1, 128)]
    for ids in ([region, 5, region, region], [3, region, region, 4, region, 5]):
        found = compiled.prompt_embeddings(ids, objects)
        assert torch.equal(found, reference.prompt_embeddings(ids, objects))
    with pytest.raises(ValueError, match="2 places"):
        compiled.prompt_embeddings([region, region], objects)


def test_a_prompt_without_objects_is_rows_of_the_table(
    compiled: CompiledNetwork, reference: PixelReferNetwork
) -> None:
    assert torch.equal(compiled.prompt_embeddings([3, 4, 3], []), reference.prompt_embeddings([3, 4, 3], []))


def test_a_region_that_an_answer_writes_is_itself(
    compiled: CompiledNetwork, reference: PixelReferNetwork
) -> None:
    region = reference.config.region_token_id
    assert region is not None
    table = reference.language.model.embed_tokens.weight
    assert torch.equal(compiled.embed.answers([region, 3, region]), table[[region, 3, region]])


def test_what_was_embedded_may_be_written_to(compiled: CompiledNetwork) -> None:
    embed: Embedding = compiled.embed
    before = embed.answers([3]).clone()
    embed.answers([3]).zero_()
    embed.prompt([3], []).zero_()
    assert torch.equal(embed.answers([3]), before)


def test_object_tokens_take_the_dtype_of_the_table(compiled: CompiledNetwork) -> None:
    region = compiled.config.region_token_id
    assert region is not None
    objects = torch.randn(1, 128).half()
    assert torch.equal(compiled.prompt_embeddings([region], [objects]), objects.float())


@pytest.fixture
def copied(folders: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders[1], tmp_path / "copy"))


def test_a_table_that_was_changed_is_refused(copied: Path) -> None:
    path = copied / "embed.onnx.data"
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"embed\.onnx\.data has sha256 .*copy the folder again"):
        opened(copied, on_host=True)


def test_a_table_of_another_size_is_refused(copied: Path, reference: PixelReferNetwork) -> None:
    graph = read_manifest(copied).graphs["embed"]
    language = type(reference.config.language)(**reference.config.language.to_dict())
    language.vocab_size += 1
    with pytest.raises(CheckpointError, match=r"embed\.onnx\.data has \d+ bytes; a table of \d+ x 128"):
        read_table(copied, graph, replace(reference.config, language=language))


def test_a_folder_of_before_runs_by_its_graph(copied: Path, reference: PixelReferNetwork) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    for graph in manifest["graphs"].values():
        del graph["on_host"]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    network = opened(copied, on_host=True)
    assert isinstance(network.embed, GraphEmbedding)
    assert torch.equal(network.prompt_embeddings([3, 4], []), reference.prompt_embeddings([3, 4], []))
