# SPDX-License-Identifier: Apache-2.0
"""``pixelrefer verify`` and ``pixelrefer export`` of compiled models."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exported_models import exported_tiny
from test_verify import own_numbers

from pixelrefer_ros.cli import main
from pixelrefer_ros.model import write_tiny_checkpoint
from pixelrefer_ros.offline.verify import TOLERANCES, verify_folder
from pixelrefer_ros.offline.verify_report import ROUNDING, WHOLE_MODEL, Comparison, Precision
from pixelrefer_ros.runtime import file_hash, newest_opset, read_manifest

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(600)  # exports, on a busy machine
PARITY = Path(__file__).parent / "data" / "parity"


def with_numbers(factory: pytest.TempPathFactory, *, opset: int = 24, precision: str = "fp32") -> Path:
    """An exported model beside numbers that torch computed from its checkpoint: other sizes, two frames."""
    checkpoint, folder = exported_tiny(factory, opset=opset, precision=precision)
    random = np.random.default_rng(4)
    frames = [random.integers(0, 256, size, dtype=np.uint8) for size in ((90, 200, 3), (150, 70, 3))]
    masks = [np.zeros(frames[i].shape[:2], dtype=bool) for i in (0, 0, 1)]
    masks[0][10:40, 20:60], masks[1][60:62, 10:190], masks[2][100:120, 30:50] = True, True, True
    copy = Path(shutil.copytree(folder, factory.mktemp("exported") / "tiny"))
    np.savez(copy / "expected.npz", **own_numbers(checkpoint, frames, masks))
    return copy


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_numbers(tmp_path_factory, opset=20)


@pytest.mark.parametrize("backend", ["onnxruntime", "auto"])
def test_exported_folder_computes_the_numbers_beside_it(exported: Path, backend: str) -> None:
    report = verify_folder(exported, backend)
    assert report.backend == "onnxruntime"
    errors = {row.stage: row.error for row in report.overall()}
    assert {stage for stage, error in errors.items() if error is None or error > TOLERANCES[stage]} == {
        "prompt"
    }
    assert report.passed


ROUNDED = ("vision_crop", "vision_context", "vision_global", "object_tokens", "logits")


@pytest.fixture(scope="module", params=["fp16", pytest.param("int8", marks=pytest.mark.long), "int4"])
def rounded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if newest_opset() < 24:
        pytest.skip("this onnxruntime has no opset 24")
    return with_numbers(tmp_path_factory, precision=request.param)


@pytest.mark.slow
def test_export_in_another_precision_passes_with_what_that_may_cost_and_says_which(
    rounded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precision = read_manifest(rounded).precision
    errors = {row.stage: row.error for row in verify_folder(rounded).overall()}
    small = ROUNDING[precision]
    for stage in ROUNDED if precision == "fp16" else ["logits"]:
        error = errors[stage]
        assert error is not None and small / 20 < error < WHOLE_MODEL * small, stage
    assert [errors[stage] for stage in ("crop", "context", "global", "box")] == [0] * 4
    assert main(["verify", str(rounded)]) == 0
    printed = capsys.readouterr().out
    said = precision if precision == "fp16" else f"{precision} with activations in fp32"
    assert f"(onnxruntime; {said})" in printed
    assert f"<= {100 * WHOLE_MODEL * small:g} %" in printed and "in percent" in printed


def test_graphs_beside_a_quantised_decoder_are_held_to_float32() -> None:
    quantised = Precision("int4", "fp32")
    assert [quantised.rounding(stage) for stage in ROUNDED] == [0, 0, 0, 0, WHOLE_MODEL * ROUNDING["int4"]]
    half = Precision("int4", "fp16")
    assert half.rounding("logits") == WHOLE_MODEL * (ROUNDING["int4"] + ROUNDING["fp16"])
    assert half.rounding("object_tokens") == WHOLE_MODEL * ROUNDING["fp16"]


def test_vision_encoder_of_integers_is_allowed_its_rounding_and_what_follows_it() -> None:
    vision = Precision("int4", int8_vision=True)
    assert str(vision) == "int4 with activations in fp32, vision in int8"
    assert [vision.rounding(stage) for stage in ROUNDED[:-1]] == [WHOLE_MODEL * ROUNDING["int8 vision"]] * 4
    assert vision.rounding("logits") == WHOLE_MODEL * (ROUNDING["int4"] + ROUNDING["int8 vision"])
    assert vision.rounding("crop") == 0


def test_other_tokens_fail_in_float32_alone() -> None:
    for rounding, passed in ((0.0, False), (4e-3, True)):
        assert Comparison("case", "generated", 13.0, rounding=rounding).passed == passed
        assert not Comparison("case", "generated", math.inf, rounding=rounding).passed
        assert not Comparison("case", "generated", None, rounding=rounding).passed


def test_half_precision_does_not_hide_that_a_stage_is_wrong(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = with_numbers(tmp_path_factory, opset=newest_opset(), precision="fp16")
    with np.load(folder / "expected.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["room/three objects/object_tokens"] *= 1.01
    np.savez(folder / "expected.npz", **arrays)
    given = [row for row in verify_folder(folder).overall() if row.error is not None]
    assert [row.stage for row in given if not row.passed] == ["object_tokens"]


def test_exported_checkpoint_computes_what_the_authors_implementation_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["verify", str(PARITY), "--backend", "onnxruntime"]) == 0
    assert "passed" in (printed := capsys.readouterr().out)
    assert "onnxruntime, exported to a temporary folder" in printed


def test_altered_weight_of_a_graph_fails_its_stage(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    path = folder / "vision.onnx"
    model = onnx.load(path)
    weights = next(
        value
        for value in model.graph.initializer
        if "post_layernorm" in value.name or "norm.bias" in value.name
    )
    values = onnx.numpy_helper.to_array(weights).copy()
    values[0] += 0.5
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    onnx.save(model, path)
    assert main(["verify", str(folder)]) == 2  # not the file of the manifest
    manifest = (folder / "manifest.json").read_text(encoding="utf-8")
    old = read_manifest(exported).graphs["vision"].sha256
    (folder / "manifest.json").write_text(manifest.replace(old, file_hash(path)), encoding="utf-8")
    failed = {row.stage for row in verify_folder(folder).overall() if not row.passed}
    assert "vision_global" in failed
    assert "global" not in failed


def test_graphs_are_not_run_in_torch(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(exported), "--backend", "torch"]) == 2
    assert "give the checkpoint" in capsys.readouterr().err


def test_crop_beyond_the_exported_budget_is_refused_with_the_remedy(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    with np.load(folder / "expected.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["room/three objects/grid_mask_0"] = np.ones((100, 100), dtype=np.float32)
    np.savez(folder / "expected.npz", **arrays)
    assert main(["verify", str(folder)]) == 2
    assert "--patch-budget 10000" in capsys.readouterr().err


@pytest.mark.long
def test_export_writes_a_folder_and_names_its_graphs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "small", vision_layers=1, language_layers=1, mask_num=4)
    out = tmp_path / "out"
    assert main(["export", str(checkpoint), "--out", str(out), "--opset", "20", "--context", "64"]) == 0
    printed = capsys.readouterr().out
    for name in ("vision", "objects", "embed", "decoder"):
        assert f"{name}.onnx" in printed
    manifest = read_manifest(out)
    assert (manifest.name, manifest.opset, manifest.settings["context_length"]) == ("small", 20, 64)
    assert {"config.json", "manifest.json", "tokenizer.json"} <= {path.name for path in out.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda made, out: ["no-such-model", "--out", out], "no-such-model"),
        (lambda made, out: [str(made[1]), "--out", out], "exported folder already"),
        (lambda made, out: [str(made[0]), "--out", str(made[0])], "the checkpoint itself"),
        (lambda made, out: [str(made[0]), "--out", out, "--precision", "int4", "--opset", "20"], "opset 24"),
        (lambda made, out: [str(made[0]), "--out", out, "--context", "-1"], "--context is -1"),
    ],
)
def test_export_that_cannot_be_made_is_one_line(
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: Callable[[tuple[Path, Path], str], list[Any]],
    message: str,
) -> None:
    made = exported_tiny(tmp_path_factory, opset=20)
    assert main(["export", *arguments(made, str(tmp_path / "out"))]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
