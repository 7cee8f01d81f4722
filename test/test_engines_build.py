# SPDX-License-Identifier: Apache-2.0
"""From an exported folder to engines, with a fake ``tensorrt``."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import engine_graphs
import pytest
import torch
from engine_builds import ANY_PRECISION, PROFILES, ask, build, calls, open_vision, write_model
from fake_tensorrt import FakeTensorRT
from pixelrefer_ros.engines import Asked, BuildOptions, build_engine

from pixelrefer_ros.errors import BackendError, CheckpointError, ParameterError, PixelReferError
from pixelrefer_ros.runtime import OnnxRuntimeBackend, read_manifest, tensorrt_plans, write_manifest
from pixelrefer_ros.runtime.manifest import Profile


@pytest.fixture
def trt():
    return FakeTensorRT()


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path)


@pytest.fixture
def asked(tmp_path):
    return ask(tmp_path)


def test_what_was_built_is_opened_and_computes(folder, trt, asked):
    built, lines = build(folder, trt, asked)
    assert built == ["decoder", "vision"]
    assert lines[0] == (
        "tensorrt 10.15.1.29 on NVIDIA GeForce RTX 4090, compute capability 8.9, 24 GB; "
        "profile any; small in fp32"
    )
    x = torch.randn(3, engine_graphs.WIDTH, generator=torch.Generator().manual_seed(0))
    reference = OnnxRuntimeBackend("cpu").open(folder, read_manifest(folder).graphs["vision"])
    assert torch.equal(open_vision(folder, trt).run({"x": x})["y"], reference.run({"x": x})["y"])


def test_engines_have_the_sizes_of_the_graph_and_decoders_a_profile_for_steps(folder, trt, asked):
    build(folder, trt, asked)
    ((_, of_decoder), (_, of_vision)) = calls(trt, "build")
    assert [profile["inputs_embeds"] for profile in of_decoder] == [
        ((1, 1, 64), (1, 8, 64), (2, 16, 64)),  # prompts are computed one at a time: see `prompt_sizes`
        ((1, 1, 64), (1, 1, 64), (3, 1, 64)),
    ]
    assert of_vision == [{"x": ((1, 64), (2, 64), (4, 64))}]
    assert calls(trt, "workspace")[0] == ("workspace", 32 << 20)


def test_float32_is_computed_as_float32(folder, trt, asked):
    build(folder, trt, asked)
    assert len(calls(trt, "build")) == 2 and calls(trt, "cleared") == [("cleared", "TF32")] * 2


def test_what_is_up_to_date_is_left_alone_and_timings_are_used_again(folder, trt, asked):
    build(folder, trt, asked)
    built, lines = build(folder, trt, asked)
    assert built == [] and lines[1:] == ["decoder: up to date", "vision: up to date"]
    built, _ = build(folder, trt, Asked(asked.profile, again=True, graphs=["vision"]))
    assert built == ["vision"]
    assert calls(trt, "timings")[-1] == ("timings", b"timings of 10.15.1.29", True)


def test_another_tensorrt_builds_anew_with_timings_of_its_own(folder, trt, asked):
    build(folder, trt, asked)
    newer = FakeTensorRT("11.4.1")
    built, lines = build(folder, newer, asked)
    assert built == ["decoder", "vision"]
    assert "decoder: building (tensorrt was 'tensorrt 10.15.1.29' and is 'tensorrt 11.4.1')" in lines
    # Those of another version are refused, and an empty cache takes their place.
    assert [call[1:] for call in calls(newer, "timings")[:2]] == [
        (b"timings of 10.15.1.29", False),
        (b"", True),
    ]


def test_a_changed_bound_of_the_profile_builds_anew(folder, trt, asked, tmp_path):
    build(folder, trt, asked)
    (tmp_path / "any.yaml").write_text(ANY_PRECISION.replace("workspace_mb: 32", "workspace_mb: 33"))
    built, lines = build(folder, trt, asked)
    assert built == ["decoder", "vision"] and "profile was 'any " in lines[1]


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"profiles": {"rows": Profile(1, 2, 8)}}, "sizes was 'rows 1..2..4' and is 'rows 1..2..8'"),
        ({"in_place": (("x", "y"),)}, "in place was e3b0c44298fc... and is 887fcea6a803..."),
    ],
    ids=["sizes", "in place"],
)
def test_what_the_manifest_alone_says_of_a_graph_builds_anew_and_engines_of_before_are_refused(
    folder, trt, asked, changed, line
):
    build(folder, trt, asked)
    manifest = read_manifest(folder)
    vision = replace(manifest.graphs["vision"], **changed)
    write_manifest(folder, replace(manifest, graphs={**manifest.graphs, "vision": vision}))
    with pytest.raises(BackendError, match=re.escape(f"is for something else: {line}: build it with")):
        open_vision(folder, trt)
    built, lines = build(folder, trt, asked)
    assert built == ["vision"] and f"vision: building ({line})" in lines
    assert open_vision(folder, trt).run({"x": torch.zeros(4, engine_graphs.WIDTH)})["y"].shape[0] == 4


def test_another_builder_builds_anew(folder, trt, asked, monkeypatch):
    build(folder, trt, asked)
    before, now = tensorrt_plans.BUILDER, tensorrt_plans.BUILDER + 1
    monkeypatch.setattr(tensorrt_plans, "BUILDER", now)
    with pytest.raises(BackendError, match=f"builder was '{before}' and is '{now}'"):
        open_vision(folder, trt)
    built, lines = build(folder, trt, asked)
    assert built == ["decoder", "vision"]
    assert f"vision: building (builder was '{before}' and is '{now}')" in lines


def test_a_tensorrt_that_has_no_flag_for_strongly_typed_networks_builds_as_well(folder, asked):
    newer = FakeTensorRT("11.4.1")
    newer.NetworkDefinitionCreationFlag = SimpleNamespace()  # deprecated in 11.0, where it does nothing
    assert build(folder, newer, asked)[0] == ["decoder", "vision"]


def test_an_older_tensorrt_refuses_the_newer_opset_and_takes_the_older(tmp_path, folder, asked):
    old = FakeTensorRT("10.14.1")
    with pytest.raises(BackendError, match="--opset 20"):
        build(folder, old, asked)
    assert old.calls == []
    engine_graphs.write_folder(
        tmp_path / "older", {"vision": engine_graphs.projection(opset=20)}, profiles=PROFILES
    )
    assert build(tmp_path / "older", old, asked)[0] == ["vision"]
    assert calls(old, "parse") == [("parse", 20)]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_precision_the_profile_does_not_take_is_refused_with_what_else_there_is(folder, trt, precision):
    write_manifest(folder, replace(read_manifest(folder), precision=precision))
    remedies = "--precision fp16, .*'onnxruntime', .*--profile"
    said = rf"exported in {precision}, and profile rtx takes fp16, bf16, int4: .*{remedies}"
    with pytest.raises(ParameterError, match=said):
        build(folder, trt, Asked())
    assert trt.calls == []


def test_an_unknown_graph_is_told_which_there_are(folder, trt, asked):
    with pytest.raises(CheckpointError, match=r"'encoder' \(it has decoder, vision\)"):
        build(folder, trt, Asked(asked.profile, graphs=["encoder"]))


def test_a_graph_that_is_left_to_the_host_is_not_built_and_not_to_be_asked_for(folder, trt, asked):
    manifest = read_manifest(folder)
    table = replace(manifest.graphs["vision"], on_host=True)
    write_manifest(folder, replace(manifest, graphs={**manifest.graphs, "vision": table}))
    with pytest.raises(ParameterError, match=r"graph vision of .* the host does.* build decoder, or give"):
        build(folder, trt, Asked(asked.profile, graphs=["decoder", "vision"]))
    assert calls(trt, "build") == []
    assert build(folder, trt, asked)[0] == ["decoder"]


@pytest.mark.parametrize("file", ["vision.onnx", "vision.data"])
def test_a_graph_that_was_changed_is_not_built(folder, trt, asked, file):
    with (folder / file).open("ab") as opened:
        opened.write(b"x")
    with pytest.raises(CheckpointError, match=f"{file} has sha256"):
        build(folder, trt, Asked(asked.profile, graphs=["vision"]))


@pytest.mark.parametrize("warning", ["Something was cast", "Unused Input: start"])
def test_a_warning_of_the_parser_stops_the_build(folder, trt, asked, warning):
    trt.parser_warnings = [warning]
    with pytest.raises(BackendError, match=f"what it computes may differ: {warning}"):
        build(folder, trt, asked)
    assert calls(trt, "build") == []


def test_a_warning_of_the_parser_that_says_nothing_of_the_graph_does_not(folder, trt, asked):
    trt.parser_warnings = ["ModelImporter.cpp:1071: Make sure input start has Int64 binding."]
    assert build(folder, trt, asked)[0] == ["decoder", "vision"]


def test_warnings_can_be_allowed_but_never_an_unused_input(folder, trt, asked):
    allowing = Asked(asked.profile, allow_warnings=True)
    trt.parser_warnings = ["Something was cast"]
    built, lines = build(folder, trt, allowing)
    assert built and "decoder: TensorRT: Something was cast" in lines
    trt.parser_warnings = ["Unused Input: start"]
    with pytest.raises(BackendError, match="Unused Input"):
        build(folder, trt, Asked(asked.profile, allow_warnings=True, again=True))


def test_a_build_that_fails_gives_tensorrts_reason(folder, trt, asked):
    trt.build_error = "insufficient workspace"
    with pytest.raises(BackendError, match=r"graph decoder.*32 MiB of workspace: insufficient workspace"):
        build(folder, trt, asked)
    assert not list((folder / "engines").glob("*.plan"))


def test_an_engine_with_other_inputs_than_the_manifest_is_refused(folder, trt):
    graph = read_manifest(folder).graphs["vision"]
    for wrong in ({"inputs": ()}, {"outputs": graph.inputs}):
        changed = type(graph)(**{**{name: getattr(graph, name) for name in type(graph).__slots__}, **wrong})
        with pytest.raises(BackendError, match=r"TensorRT finds .* and the manifest names"):
            build_engine(
                trt, folder, changed, precision="fp32", profiles=graph.profiles, options=BuildOptions(16)
            )


def test_progress_is_shown_and_a_build_can_be_stopped(folder, trt, asked):
    shown = []

    class Bar:
        def __init__(self, **options):
            shown.append(options["desc"])
            self.n = 0

        def update(self, steps):
            self.n += steps

        def close(self):
            shown.append(self.n)

    build(folder, trt, asked, bar=Bar)
    assert shown == ["decoder: Building", 2, "vision: Building", 2]
    with pytest.raises(BackendError, match="graph decoder: the build was stopped"):
        build(folder, trt, Asked(asked.profile, again=True), bar=Bar, stopped=lambda: True)


def test_folder_whose_vision_encoder_multiplies_integers_is_refused_with_the_remedy(folder, trt, asked):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["settings"]["int8_vision"] = True
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PixelReferError, match=r"--int8-vision.*export it again without.*'onnxruntime'"):
        build(folder, trt, asked)
    assert trt.calls == []
