# SPDX-License-Identifier: Apache-2.0
"""Every graph of PixelRefer-Lite under ONNX Runtime computes what torch computes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported_models import exported_tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from pixelrefer_ros.engines import unsupported
from pixelrefer_ros.export import export_graph
from pixelrefer_ros.export.language import plan_graphs, with_fixed_context

from pixelrefer_ros.model import (
    ObjectCrop,
    PixelReferLite,
    PixelReferNetwork,
    TimedTokens,
    load_network,
    patchify,
)
from pixelrefer_ros.model.compiled import CompiledNetwork, open_network
from pixelrefer_ros.runtime import (
    GraphDecoder,
    Manifest,
    OnnxRuntimeBackend,
    newest_opset,
    read_manifest,
    verify_graph,
)

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.skipif(newest_opset() < 24, reason="this onnxruntime has no opset 24"),
    pytest.mark.timeout(600),  # exports, on a busy machine
]

# Sums of float32 are taken in another order: 1e-4 on values of about 1 to 5.
EXACT = {"rtol": 0, "atol": 1e-4}
CPU = torch.device("cpu")
COUNT = 8  # n of the small model


@dataclass
class Pair:
    """The same weights in torch and compiled."""

    checkpoint: Path
    folder: Path
    manifest: Manifest
    torch: PixelReferNetwork
    compiled: CompiledNetwork


@pytest.fixture(scope="module", params=[24, 20], ids=["opset 24", "opset 20"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    checkpoint, folder = exported_tiny(tmp_path_factory, opset=request.param)
    return Pair(
        checkpoint,
        folder,
        read_manifest(folder),
        load_network(checkpoint, device=CPU, dtype=torch.float32),
        open_network(folder, OnnxRuntimeBackend(threads=1), CPU),
    )


def picture(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (14 * rows, 14 * columns, 3), dtype=np.uint8)


def test_pictures_in_one_call_are_encoded_as_torch_encodes_each_alone(pair: Pair) -> None:
    pictures = [picture(3, 5), picture(1, 1, 1), picture(7, 2, 2), picture(16, 16, 3)]
    grids = torch.tensor([(one.shape[0] // 14, one.shape[1] // 14) for one in pictures])
    patches = torch.cat([patchify(one) for one in pictures])
    together = pair.compiled.vision.run({"patches": patches, "grids": grids})["features"]
    for one, features in zip(pictures, together.split(grids.prod(dim=1).tolist()), strict=True):
        torch.testing.assert_close(features, pair.torch.image_features([one])[0], **EXACT)
        torch.testing.assert_close(features, pair.compiled.image_features([one])[0], **EXACT)


def crop(grid: tuple[int, int], chosen: list[int], random: np.random.Generator) -> ObjectCrop:
    """A crop of which only the grid, the box and the frame count here."""
    mask = np.zeros(grid[0] * grid[1], dtype=np.float32)
    mask[chosen] = random.uniform(0.01, 1, len(chosen))
    top, left = (int(random.integers(0, 200)) for _ in range(2))
    box = (top, left, top + int(random.integers(1, 200)), left + int(random.integers(1, 300)))
    empty = np.zeros((0, 0, 3), dtype=np.uint8)
    return ObjectCrop(empty, mask.reshape(grid), box, empty, (480, 640))


@st.composite
def objects(draw: st.DrawFn) -> list[ObjectCrop]:
    random = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    crops = []
    for _ in range(draw(st.integers(1, 4))):
        rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 9))
        members = draw(st.integers(1, rows * columns))
        chosen = sorted(random.choice(rows * columns, members, replace=False).tolist())
        crops.append(crop((rows, columns), chosen, random))
    return crops


def tokens_of(
    network: PixelReferNetwork | CompiledNetwork, crops: list[ObjectCrop], frames: int
) -> torch.Tensor:
    random = torch.Generator().manual_seed(len(crops))
    width = network.config.vision.hidden_size
    features = [torch.randn(one.grid[0] * one.grid[1], width, generator=random) for one in crops]
    local = [torch.randn(256, width, generator=random) for _ in crops]
    return network.object_tokens(crops, features, local, torch.randn(frames, 576, width, generator=random))


@settings(max_examples=15)
@given(crops=objects())
def test_objects_of_any_size_and_number_get_the_tokens_torch_gives(
    pair: Pair, crops: list[ObjectCrop]
) -> None:
    for frames in {1, len(crops)}:
        torch.testing.assert_close(
            tokens_of(pair.compiled, crops, frames), tokens_of(pair.torch, crops, frames), **EXACT
        )


@pytest.mark.parametrize("members", [1, COUNT - 1, COUNT, COUNT + 1, 3 * COUNT, 60])
def test_fewer_as_many_and_more_patches_than_tokens(pair: Pair, members: int) -> None:
    random = np.random.default_rng(members)
    crops = [
        crop((6, 10), list(range(members)), random),
        crop((6, 10), list(range(60 - members, 60)), random),
    ]
    torch.testing.assert_close(tokens_of(pair.compiled, crops, 1), tokens_of(pair.torch, crops, 1), **EXACT)


def test_objects_that_are_all_alike_get_the_tokens_torch_gives(pair: Pair) -> None:
    """Equal patches: every distance is 0, ties go to the first centroid and clusters stay empty."""
    crops = [crop((1, 40), list(range(40)), np.random.default_rng(0))]
    width = pair.torch.config.vision.hidden_size
    features, local, whole = [torch.ones(40, width)], [torch.ones(256, width)], torch.ones(1, 576, width)
    found = [network.object_tokens(crops, features, local, whole) for network in (pair.compiled, pair.torch)]
    torch.testing.assert_close(*found, **EXACT)


def test_more_objects_than_one_call_takes_are_encoded_in_several(pair: Pair) -> None:
    random = np.random.default_rng(1)
    crops = [crop((2, 3), [0, 2, 5], random) for _ in range(35)]
    for frames in (1, 35):
        torch.testing.assert_close(
            tokens_of(pair.compiled, crops, frames), tokens_of(pair.torch, crops, frames), **EXACT
        )


def test_thin_small_and_large_objects_of_one_frame_get_the_tokens_torch_gives(pair: Pair) -> None:
    frame = np.random.default_rng(5).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    masks = [np.zeros((240, 320), dtype=bool) for _ in range(4)]
    masks[0][120:122, 5:315] = True  # a cable
    masks[1][10, 10] = True  # a pixel
    masks[2][20:220, 60:260] = True
    masks[3][np.arange(240), np.arange(240)] = True  # a diagonal line
    of_torch, of_compiled = (
        network.encode_objects(frame, masks, network.encode_global(frame))
        for network in (pair.torch, pair.compiled)
    )
    for expected, found in zip(of_torch, of_compiled, strict=True):
        torch.testing.assert_close(found, expected, **EXACT)


def empty_caches(pair: Pair, batch: int, capacity: int) -> dict[str, torch.Tensor]:
    graph = pair.manifest.graphs["decoder"]
    specs = [graph.input(name) for name, _ in graph.in_place]
    return {
        spec.name: torch.zeros([{"B": batch, "C": capacity}.get(str(size), size) for size in spec.shape])  # type: ignore[misc]
        for spec in specs
    }


def test_prefill_in_one_piece_in_chunks_and_by_single_positions_is_the_same(pair: Pair) -> None:
    prompt = torch.randn(24, 128)
    expected = pair.torch.logits(prompt)[-1]
    for chunks in ([24], [10, 14], [1] * 24):
        caches, place = empty_caches(pair, 1, 30), 0
        for count in chunks:
            feeds = {
                "embeddings": prompt[None, place : place + count].contiguous(),
                "start": torch.tensor([place]),
                "last": torch.tensor([count - 1]),
                **caches,
            }
            logits = pair.compiled.language._decoder.run(feeds)["logits"]
            place += count
        torch.testing.assert_close(logits[0, 0], expected, rtol=0, atol=1e-4)


def test_rows_of_a_batch_may_have_different_lengths(pair: Pair) -> None:
    """The shorter prompt is followed by anything; the next position overwrites it."""
    prompts, following = [torch.randn(9, 128), torch.randn(4, 128)], torch.randn(2, 1, 128)
    padded = torch.full((2, 9, 128), 7.0)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = prompt
    caches, lengths = empty_caches(pair, 2, 12), torch.tensor([9, 4])
    session = pair.compiled.language._decoder
    first = session.run({"embeddings": padded, "start": torch.tensor([0, 0]), "last": lengths - 1, **caches})
    second = session.run({"embeddings": following, "start": lengths, "last": torch.tensor([0, 0]), **caches})
    for row, prompt in enumerate(prompts):
        expected = pair.torch.logits(torch.cat((prompt, following[row])))
        torch.testing.assert_close(first["logits"][row, 0], expected[-2], **EXACT)
        torch.testing.assert_close(second["logits"][row, 0], expected[-1], **EXACT)


def test_exported_folder_alone_answers_as_the_checkpoint(pair: Pair) -> None:
    frame = np.random.default_rng(2).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    masks = [np.zeros((120, 160), dtype=bool) for _ in range(2)]
    masks[0][30:60, 40:90], masks[1][100:104, 3:9] = True, True
    answers = []
    for folder, backend in ((pair.checkpoint, "torch"), (pair.folder, "onnxruntime"), (pair.folder, "auto")):
        model = PixelReferLite.from_pretrained(folder, backend=backend)
        whole = model.encode_global(frame)
        first, second = (model.encode_object(frame, mask, whole) for mask in masks)
        videos = [TimedTokens(first, 0.0), TimedTokens(second, 0.5)]
        questions = [
            ("What is it?", [[TimedTokens(first)]]),
            ("Is <region> left of <region>?", [[TimedTokens(first)], [TimedTokens(second)]]),
            ("What does <region> do?", [videos]),
        ]
        answers.append(
            [
                [event.token_id for event in model.generate(text, objects_, max_new_tokens=12)]
                for text, objects_ in questions
            ]
        )
        assert model.backend == ("torch" if backend == "torch" else "onnxruntime")
    assert answers[0] == answers[1] == answers[2]


def names_of_sizes(model: onnx.ModelProto) -> set[str]:
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    return {size.dim_param for value in values for size in value.type.tensor_type.shape.dim}


def test_manifest_says_what_lies_in_the_folder(pair: Pair) -> None:
    manifest = read_manifest(pair.folder)
    assert manifest == pair.manifest
    assert set(manifest.graphs) == {"vision", "objects", "embed", "decoder"}
    symbols = {"vision": "PG", "objects": "PKF", "embed": "LR", "decoder": "BSC"}
    for name, graph in manifest.graphs.items():
        verify_graph(pair.folder, graph)
        named = {
            size for spec in (*graph.inputs, *graph.outputs) for size in spec.shape if isinstance(size, str)
        }
        assert named == set(graph.profiles) == set(symbols[name])
        model = onnx.load(pair.folder / graph.file)
        onnx.checker.check_model(model)
        assert str(Path(__file__).parent.parent).encode() not in (pair.folder / graph.file).read_bytes()
        assert [(one.domain, one.version) for one in model.opset_import] == [("", manifest.opset)]
        assert "None" not in names_of_sizes(model), "ONNX Runtime takes sizes of one name for equal ones"
        for specs, values in ((graph.inputs, model.graph.input), (graph.outputs, model.graph.output)):
            shapes = [
                tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
                for value in values
            ]
            assert [(spec.name, spec.shape) for spec in specs] == [
                (value.name, shape) for value, shape in zip(values, shapes, strict=True)
            ]
    assert manifest.settings["context_length"] == 1024
    assert len(manifest.graphs["decoder"].in_place) == 4


def test_operators_and_their_element_types_are_in_the_matrix_of_plain_tensorrt(pair: Pair) -> None:
    for name, graph in pair.manifest.graphs.items():
        assert unsupported(onnx.load(pair.folder / graph.file), pair.manifest.opset) == [], name


def test_fused_operators_are_those_of_the_opset(pair: Pair) -> None:
    layers = pair.torch.config.language.num_hidden_layers
    model = onnx.load(pair.folder / "decoder.onnx")
    kinds = [node.op_type for node in model.graph.node]
    fused = {"Attention": layers, "TensorScatter": 2 * layers, "RotaryEmbedding": 2 * layers}
    expected = (
        fused if pair.manifest.opset == 24 else dict.fromkeys(fused, 0) | {"ScatterElements": 2 * layers}
    )
    assert {kind: kinds.count(kind) for kind in expected} == expected


def test_fixed_context_has_caches_of_one_size(pair: Pair, tmp_path: Path) -> None:
    opset = pair.manifest.opset
    if opset == 20:
        pytest.skip("the same code as for opset 24")
    *_, plan = plan_graphs(pair.torch, opset=opset, context_length=40, patch_budget=600)
    graph = export_graph(with_fixed_context(plan, 40), tmp_path, opset=opset)
    assert graph.input("past_key_0").shape == ("B", 2, 40, 32)
    assert set(graph.profiles) == {"B", "S"}
    session = OnnxRuntimeBackend(threads=1).open(tmp_path, graph)
    decoder = GraphDecoder(session, pair.compiled.embed.answers, context_length=40, device=CPU)
    prompt = torch.randn(30, 128)
    np.testing.assert_allclose(decoder.batch().add(prompt), pair.torch.logits(prompt)[-1], rtol=0, atol=1e-4)
