# SPDX-License-Identifier: Apache-2.0
"""``pixelrefer export`` sees which kind of model it is given, and what the installed ONNX Runtime runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from tracker_feeds import GRAPHS
from tracking_scene import moving_frames

from pixelrefer_ros.cli import main
from pixelrefer_ros.model import write_tiny_checkpoint
from pixelrefer_ros.model_source import resolve_tracker
from pixelrefer_ros.offline.export import default_opset, is_tracker
from pixelrefer_ros.runtime import read_manifest
from pixelrefer_ros.tracking import StateRules, StreamTracker, write_tiny_sam2
from pixelrefer_ros.types import Box, Region

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(600)  # exports, on a busy machine
LANGUAGE_ONLY = ["--context", "64", "--patch-budget", "600", "--activations", "fp16", "--fixed-context"]
OLD_RUNTIME = "1.23.2"  # the newest for Python 3.10
TRACKER_ONLY = ["--image-size", "64", "--max-objects", "4"]


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sam2(tmp_path_factory.mktemp("sam2") / "small-tracker", seed=3)


def test_tracker_that_was_exported_follows_objects(
    tracker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --opset, in that which the installed ONNX Runtime runs: here an older one."""
    monkeypatch.setattr(onnxruntime, "__version__", OLD_RUNTIME)
    out = tmp_path / "out"
    assert main(["export", str(tracker), "--out", str(out), "--precision", "fp16", *TRACKER_ONLY]) == 0
    printed = capsys.readouterr()
    assert "memory_attention.onnx" in printed.out
    assert "small-tracker, fp16, opset 20" in printed.out
    assert "opset 20, the newest of ours" in printed.err and "give --opset 24" in printed.err
    manifest = read_manifest(out)
    assert (manifest.kind, manifest.name, manifest.precision) == ("sam2", "small-tracker", "fp16")
    assert (manifest.opset, {graph.name for graph in manifest.graphs.values()}) == (20, set(GRAPHS))
    assert (manifest.settings["image_size"], manifest.settings["max_objects"]) == (64, 4)

    rules = StateRules(
        min_area_px=0, max_area_fraction=1.0, smallest_part=0.0, apart=False, remembers_absence=True
    )
    follows = StreamTracker.from_pretrained(resolve_tracker(str(out)), max_objects=4, states=rules)
    assert follows.image_size == 64
    first, second = moving_frames(2)
    follows.prompt(first, [Region(box=Box(20 + 30 * i, 30, 40, 30), object_id=i + 1) for i in range(3)])
    assert [track.object_id for track in follows.track(second)] == [1, 2, 3]


def test_kind_of_a_model_is_in_its_config_or_in_the_kind_of_its_file(tracker: Path, tmp_path: Path) -> None:
    assert is_tracker(tracker)
    assert not is_tracker(write_tiny_checkpoint(tmp_path / "language", vision_layers=1, language_layers=1))
    meta = tmp_path / "meta"
    meta.mkdir()
    assert not is_tracker(meta)
    (meta / "sam2.1_hiera_tiny.pt").touch()
    assert is_tracker(meta) and is_tracker(meta / "sam2.1_hiera_tiny.pt")


@pytest.mark.parametrize(
    "options", [LANGUAGE_ONLY, ["--int8-vision"], ["--context", "0"], ["--precision", "int8"]]
)
def test_arguments_that_no_tracker_has_are_refused_in_one_line(
    tracker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert main(["export", str(tracker), "--out", str(tmp_path / "out"), *options]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert all(option in said for option in options[::2]) or "fp32, fp16, bf16" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [TRACKER_ONLY, TRACKER_ONLY[:2]])
def test_arguments_that_no_language_model_has_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "language", vision_layers=1, language_layers=1)
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "out"), *options]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "only a tracker (SAM 2)" in said and ", ".join(options[::2]) in said
    assert not (tmp_path / "out").exists()


def test_a_context_that_no_question_fits_into_is_refused_and_leaves_what_was_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "language", vision_layers=1, language_layers=1)
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text("{}", encoding="utf-8")
    assert main(["export", str(checkpoint), "--out", str(out), "--context", "8"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "a context of 8 positions is too short" in said and "--context" in said
    assert (out / "manifest.json").exists()


@pytest.mark.parametrize("where", ["itself", "exported"])
def test_tracker_is_not_exported_over_itself_nor_twice(
    tracker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    if where == "itself":
        assert main(["export", str(tracker), "--out", str(tracker)]) == 2
    else:
        (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
        assert main(["export", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "give another folder" in (said := capsys.readouterr().err) or "exported folder already" in said


@pytest.mark.parametrize(("version", "opset"), [(OLD_RUNTIME, 20), ("1.31.1", 24), ("2.0.0", 24), (None, 24)])
def test_default_opset_is_the_newest_that_runs_here(
    monkeypatch: pytest.MonkeyPatch, version: str | None, opset: int
) -> None:
    if version is None:  # no ONNX Runtime to please
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    else:
        monkeypatch.setattr(onnxruntime, "__version__", version)
    assert default_opset() == opset


@pytest.mark.parametrize(
    ("place", "said"), [("", "which is a file: give a folder"), ("out", "choose another")]
)
def test_folder_that_is_a_file_or_lies_in_one_is_one_line(
    tracker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, said: str
) -> None:
    taken = tmp_path / "taken"
    taken.touch()
    assert main(["export", str(tracker), "--out", str(taken / place)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "opset" not in line]
    assert str(taken / place) in line and said in line


def test_full_disk_is_one_line_that_names_the_folder_and_leaves_no_manifest(
    tracker: Path, tmp_path: Path
) -> None:
    """In a process that may write no more than 4096 bytes to a file."""
    (tmp_path / "manifest.json").write_text("of an earlier export", encoding="utf-8")
    code = (
        "import resource, sys; from pixelrefer_ros.cli import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY)); sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "export", str(tracker), "--out", str(tmp_path), *TRACKER_ONLY],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "opset" not in line]
    assert f"--out {tmp_path} cannot be written (File too large)" in line and "make room" in line
    assert not (tmp_path / "manifest.json").exists()
