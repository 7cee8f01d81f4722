# SPDX-License-Identifier: Apache-2.0
"""The compile gate: exported graphs build under TensorRT RTX with no GPU, fused, with nothing dropped.

Whether they compute the right numbers is not asked here: ONNX Runtime runs the very same graphs elsewhere.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import mmap
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import engine_graphs
import onnx
import pytest
from exported_models import exported_tiny, exported_tiny_tracker
from pixelrefer_ros.engines import (
    BuildOptions,
    BuiltEngine,
    EngineStore,
    build_engine,
    network,
    unsupported,
)
from pixelrefer_ros.engines.profiles.profile import BOUNDED
from pixelrefer_ros.export import export_tracker

from pixelrefer_ros.errors import BackendError
from pixelrefer_ros.model_source import SHIPPED_MODEL, SHIPPED_TRACKER
from pixelrefer_ros.runtime import Manifest, Profile, read_manifest
from pixelrefer_ros.runtime.tensorrt_messages import Messages
from pixelrefer_ros.runtime.tensorrt_plans import EngineKey, read_plan, read_record

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT RTX has wheels for x86-64 only")
pytestmark = pytest.mark.xdist_group("tensorrt")  # its builds take all cores: never two at once

TARGETS = [(8, 6), (8, 9), (12, 0)]
ONE = [(8, 9)]
MODELS = Path(__file__).parent.parent / "models"
SMALL = {"batch": Profile(1, 1, 2), "sequence": Profile(1, 8, 16), "rows": Profile(1, 2, 4)}
HALVES = ("fp16", "bf16")
NARROW = ("objects",)
"""The heads of the small model's object encoder are 8 wide: there is no fused kernel for them."""
TRACKER_ATTENTION = {"image_encoder": 5, "memory_attention": 4, "mask_decoder": 7, "memory_encoder": 0}
"""Five blocks, two layers of two, two layers of three and a last one: the small SAM 2 and the shipped one."""


def build(
    folder: Path,
    manifest: Manifest,
    name: str,
    *,
    fused: bool = False,
    targets: Sequence[tuple[int, int]] = TARGETS,
) -> BuiltEngine:
    graph = manifest.graphs[name]
    options = BuildOptions(workspace_mb=512, compute_capabilities=targets, fused=fused)
    return build_engine(
        trt, folder, graph, precision=manifest.precision, profiles=graph.profiles, options=options
    )


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """PixelRefer-Lite, small, exported in both halves."""
    folders = tmp_path_factory.mktemp("language")
    (folders / "fp16").symlink_to(exported_tiny(tmp_path_factory, precision="fp16")[1])
    engine_graphs.as_bf16(folders / "fp16", folders / "bf16")
    return folders


@pytest.fixture(scope="module")
def tracker(tmp_path_factory):
    """The shipped SAM 2, exported in both halves."""
    folders = tmp_path_factory.mktemp("tracker")
    export_tracker(shipped(SHIPPED_TRACKER), folders / "fp16", precision="fp16", opset=24)
    engine_graphs.as_bf16(folders / "fp16", folders / "bf16")
    return folders


@pytest.mark.parametrize("precision", ["fp32", *HALVES])
def test_a_small_decoder_has_fused_attention_and_caches_updated_in_place(tmp_path, precision):
    manifest = engine_graphs.write_folder(
        tmp_path,
        {"decoder": engine_graphs.decoder(precision, layers=2)},
        precision=precision,
        profiles=SMALL,
        in_place=engine_graphs.caches(),
        external_data=True,
    )
    built = build(tmp_path, manifest, "decoder", fused=precision != "fp32")
    assert built.layers["KV_CACHE_UPDATE"] == 2 * 2
    assert built.layers["ATTENTION_OUTPUT"] == 2
    assert built.layers["ROTARY_EMBEDDING"] == 2 * 2
    assert built.notes == () and built.plan_bytes > 10_000


def test_a_plan_is_written_from_tensorrts_memory_and_is_the_file_that_is_read(tmp_path):
    models = {"vision": engine_graphs.projection("fp16")}
    manifest = engine_graphs.write_folder(tmp_path, models, precision="fp16", profiles=SMALL)
    built = build(tmp_path, manifest, "vision", targets=ONE)
    assert isinstance(built.plan, trt.IHostMemory)
    key = EngineKey(*[""] * len(dataclasses.fields(EngineKey)))
    EngineStore(tmp_path, lambda _: None).ensure("vision", key, lambda: built)
    plan = read_plan(tmp_path, read_record(tmp_path, "vision"))
    assert isinstance(plan.obj, mmap.mmap) and plan == bytes(built.plan)


def test_several_prompts_at_once_need_no_memory(tmp_path, monkeypatch):
    def scratch(entries: int) -> int:
        """Bytes that the engine of a decoder of 1024 positions sets aside for a run; TensorRT says it."""
        models = {"decoder": engine_graphs.decoder("fp16", layers=1, context=1024)}
        sizes = {"batch": Profile(1, 1, entries), "sequence": Profile(1, 256, 1024)}
        manifest = engine_graphs.write_folder(
            tmp_path, models, precision="fp16", profiles=sizes, in_place=engine_graphs.caches(1)
        )
        said: list[str] = []
        monkeypatch.setattr(Messages, "add", lambda _self, _level, text: bool(said.append(text)))
        build(tmp_path, manifest, "decoder", targets=ONE)
        found = [re.search(r"Total Activation Memory: (\d+)", text) for text in said]
        return max(int(match[1]) for match in found if match)

    # Steps of 8 entries need more than those of 2; 8 prompts of full length would need 4 times as much.
    assert scratch(8) < 1.5 * scratch(2)


def test_heads_too_narrow_for_a_fused_kernel_are_taken_apart_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_graphs, "HEAD", 8)
    monkeypatch.setattr(engine_graphs, "WIDTH", 32)
    manifest = engine_graphs.write_folder(
        tmp_path,
        {"decoder": engine_graphs.decoder("fp16", layers=1)},
        precision="fp16",
        profiles=SMALL,
        in_place=engine_graphs.caches(1),
    )
    with pytest.raises(BackendError, match="dedicated kernel"):
        build(tmp_path, manifest, "decoder", fused=True)
    (note,) = build(tmp_path, manifest, "decoder").notes
    assert note.startswith("it does not build with fused attention (") and "dedicated kernel" in note


@pytest.mark.parametrize(
    ("kind", "profiles"),
    [({"masked": True}, {"N": Profile(1, 2, 4)}), ({"batch": 1}, {})],
    ids=["mask", "one of one"],
)
def test_attention_of_one_head_is_fused_because_it_is_split(tmp_path, monkeypatch, kind, profiles):
    models = {"attention": engine_graphs.attention("fp16", **kind)}
    manifest = engine_graphs.write_folder(tmp_path, models, precision="fp16", profiles=profiles)
    assert build(tmp_path, manifest, "attention", fused=True).layers["ATTENTION_OUTPUT"] == 1
    # Once this builds too, splitting is no longer needed.
    monkeypatch.setattr(network, "split_single_heads", lambda _: 0)
    with pytest.raises(BackendError, match="dedicated kernel"):
        build(tmp_path, manifest, "attention", fused=True)


def test_what_tensorrt_cannot_read_is_told_with_its_reason(tmp_path):
    model = engine_graphs.projection()
    model.graph.node[1].op_type, model.graph.node[1].domain = "Nonsense", "nowhere"
    model.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    manifest = engine_graphs.write_folder(tmp_path, {"vision": model}, profiles=SMALL)
    with pytest.raises(BackendError, match=r"vision\.onnx: TensorRT cannot read it: .*Nonsense"):
        build(tmp_path, manifest, "vision")


def test_an_input_that_the_graph_does_not_use_stops_the_build(tmp_path):
    model = engine_graphs.projection()
    model.graph.input.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["rows", 3]))
    manifest = engine_graphs.write_folder(tmp_path, {"vision": model}, profiles=SMALL)
    with pytest.raises(BackendError, match=r"(?i)unused input.*z"):
        build(tmp_path, manifest, "vision")


@pytest.mark.slow
@pytest.mark.timeout(600)  # exporting both models takes longest, on a busy machine minutes
@pytest.mark.parametrize("precision", HALVES)
def test_every_graph_of_the_language_model_builds(language, precision):
    built = build_all(language / precision, narrow=NARROW)
    layers = len(read_manifest(language / precision).graphs["decoder"].in_place) // 2
    assert built["decoder"].layers["KV_CACHE_UPDATE"] == 2 * layers
    assert built["decoder"].layers["ATTENTION_OUTPUT"] == layers
    assert built["decoder"].layers["ROTARY_EMBEDDING"] == 2 * layers
    assert built["vision"].layers["ATTENTION_OUTPUT"] == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("precision", HALVES)
def test_every_graph_of_the_shipped_tracker_builds_fused(tracker, precision):
    assert layers_of(build_all(tracker / precision), "ATTENTION_OUTPUT") == TRACKER_ATTENTION


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_graph_of_the_language_model_for_older_tensorrt_builds_of_operators_it_reads(tmp_path_factory):
    _, folder = exported_tiny(tmp_path_factory, opset=20)
    built = build_all(folder, targets=ONE)
    layers = len(read_manifest(folder).graphs["decoder"].in_place) // 2
    assert layers_of(built, "SCATTER")["decoder"] == 2 * layers  # the caches
    assert layers_of(built, "SOFTMAX")["decoder"] == layers


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_graph_of_the_tracker_for_older_tensorrt_builds_of_operators_it_reads(tmp_path_factory):
    _, folder = exported_tiny_tracker(tmp_path_factory, opset=20, precision="fp16")
    assert layers_of(build_all(folder, targets=ONE), "SOFTMAX") == TRACKER_ATTENTION


def shipped(name: str) -> Path:
    if not (MODELS / name / "model.safetensors").is_file():
        pytest.skip(f"models/{name} is not here")
    return MODELS / name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_graph_of_the_shipped_language_model_builds_fused(tmp_path):
    from pixelrefer_ros.offline.export import export_model

    checkpoint = shipped(SHIPPED_MODEL)
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    layers, seeing = config["num_hidden_layers"], config["vision_config"]["num_hidden_layers"]
    export_model(checkpoint, tmp_path, precision="fp16", opset=24)
    built = build_all(tmp_path, targets=ONE)
    fused = {"vision": seeing, "objects": 2, "embed": 0, "decoder": layers}
    assert layers_of(built, "ATTENTION_OUTPUT") == fused
    assert layers_of(built, "KV_CACHE_UPDATE")["decoder"] == 2 * layers


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_bounds_of_profiles_name_graphs_and_symbols_that_are_exported(language, tracker):
    exported = {
        name: set(graph.profiles)
        for folder in (language, tracker)
        for name, graph in read_manifest(folder / "fp16").graphs.items()
    }
    unknown = {
        (name, symbol)
        for name, symbols in BOUNDED.items()
        for symbol in set(symbols) - exported.get(name, set())
    }
    assert unknown == set()


def test_files_that_build_with_tensorrt_rtx_never_run_at_once():
    files = [path for path in Path(__file__).parent.glob("test_*.py") if "tensorrt_rtx" in path.read_text()]
    building = [path.stem for path in files if "importorskip" in path.read_text()]
    assert len(building) > 1
    for name in building:
        marks = importlib.import_module(name).pytestmark
        groups = [mark.args for mark in (marks if isinstance(marks, list) else [marks])]
        assert ("tensorrt",) in groups, name


def layers_of(built: dict[str, BuiltEngine], kind: str) -> dict[str, int]:
    return {name: engine.layers[kind] for name, engine in built.items()}


def build_all(
    folder: Path, *, narrow: Collection[str] = (), targets: Sequence[tuple[int, int]] = TARGETS
) -> dict[str, BuiltEngine]:
    """Every graph: its operators are on the list, and it builds for every target, fused, nothing dropped.

    Attention of the graphs in `narrow` need not be fused.
    """
    manifest = read_manifest(folder)
    built = {}
    for name, graph in manifest.graphs.items():
        model = onnx.load(folder / graph.file, load_external_data=False)
        assert unsupported(model, manifest.opset) == [], name
        built[name] = build(folder, manifest, name, fused=name not in narrow, targets=targets)
    return built
