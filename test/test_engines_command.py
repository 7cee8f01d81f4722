# SPDX-License-Identifier: Apache-2.0
"""`pixelrefer build-engines`, and what the node with `build_only` builds, with a fake ``tensorrt``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import fake_tensorrt
import pytest
import torch
from engine_builds import GPU, ask, build, calls, write_model
from fake_tensorrt import FakeTensorRT

from pixelrefer_ros import cli
from pixelrefer_ros.errors import PixelReferError
from pixelrefer_ros.model_source import build_named_engines
from pixelrefer_ros.parameters import check_parameters
from pixelrefer_ros.runtime import tensorrt_machine as machine
from pixelrefer_ros.runtime.tensorrt_backend import why_not_tensorrt

ROOT = Path(__file__).parent.parent


@pytest.fixture
def trt():
    return FakeTensorRT()


@pytest.fixture
def folder(tmp_path):
    return write_model(tmp_path)


@pytest.fixture
def asked(tmp_path):
    return ask(tmp_path)


def test_the_command_builds_and_says_what_it_did(folder, trt, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(machine, "current_gpu", lambda *_: GPU)
    profile = ["--profile", str(tmp_path / "any.yaml"), "--engines", str(tmp_path / "kept")]
    assert cli.main(["build-engines", str(folder), *profile, "--graph", "vision"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1] == "vision: building (there is none)" and said[-1].startswith("vision: built in")
    assert (tmp_path / "kept/vision.engine.json").is_file() and not (folder / "engines").exists()


def building_child(start_child, folder, step_s):
    """The command in a process of its own, once TensorRT builds there."""
    child = start_child(
        [
            *(sys.executable, fake_tensorrt.__file__, "--gpu", GPU.name, f"--step-s={step_s}"),
            *("pixelrefer_ros.cli", "build-engines", str(folder)),
            *("--profile", str(folder.parent / "any.yaml"), "--graph", "vision"),
        ],
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert "tensorrt 10.15.1.29" in child.stdout.readline()
    assert child.stdout.readline() == "vision: building (there is none)\n"
    return child


STOPPING = "pixelrefer: stopping at TensorRT's next step; interrupt again to end at once\n"


def test_an_interrupt_stops_the_build_and_leaves_nothing_half(folder, start_child):
    child = building_child(start_child, folder, step_s=3.0)
    child.send_signal(signal.SIGINT)
    assert child.wait(60.0) == 130
    assert (child.stdout.read(), child.stderr.read()) == ("", STOPPING + "pixelrefer: interrupted\n")
    assert sorted(path.name for path in (folder / "engines").iterdir()) == ["building.lock"]


def test_a_second_interrupt_ends_a_build_that_does_not_stop(folder, trt, asked, start_child):
    child = building_child(start_child, folder, step_s=600.0)
    child.send_signal(signal.SIGINT)
    assert child.stderr.readline() == STOPPING
    child.send_signal(signal.SIGINT)
    assert child.wait(60.0) == 130
    assert (child.stdout.read(), child.stderr.read()) == ("", "pixelrefer: interrupted\n")
    assert build(folder, trt, asked)[0] == ["decoder", "vision"]  # the lock went with the process


def build_named(folder, **parameters):
    """What the node with `build_only` builds, and the lines it says."""
    lines: list[str] = []
    named = {"model": str(folder), "tracker_model": "none", **parameters}
    build_named_engines(check_parameters(named), say=lines.append, stopped=lambda: False)
    return lines


def test_a_named_model_that_is_no_exported_folder_is_told_and_the_other_is_built(
    folder, trt, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(machine, "current_gpu", lambda *_: GPU)
    given = {"engine_profile": str(tmp_path / "any.yaml"), "engine_dir": str(tmp_path / "kept")}
    lines = build_named(folder, tracker_model="tiny-random", **given)
    assert lines[0] == "tracker_model 'tiny-random' is no exported folder: it has no engines"
    assert len(calls(trt, "build")) == len(list((tmp_path / "kept/model").glob("*.plan"))) == 2


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({}, "exported in fp32.*the node: engine_profile"),  # it was exported in fp32
        ({"engine_profile": "no-such"}, "there is no profile 'no-such'"),
        ({"model": "tiny-random"}, "neither model nor tracker_model is an exported folder"),
        ({"model": "/no/such"}, "model '/no/such' does not exist"),
    ],
    ids=["precision", "profile", "nothing exported", "no folder"],
)
def test_named_models_that_cannot_be_built_are_told_with_the_parameter_to_set(
    folder, trt, monkeypatch, parameters, told
):
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(machine, "current_gpu", lambda *_: GPU)
    with pytest.raises(PixelReferError, match=told):
        build_named(folder, **parameters)
    assert trt.calls == []


def test_without_tensorrt_or_gpu_the_command_says_what_is_missing(folder, trt, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert cli.main(["build-engines", str(folder)]) == 2
    assert "TensorRT cannot be imported" in capsys.readouterr().err
    assert "TensorRT cannot be imported" in why_not_tensorrt(folder)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["build-engines", str(folder)]) == 2
    assert "torch sees no CUDA GPU" in capsys.readouterr().err


def test_a_folder_that_is_no_exported_one_is_told_first(tmp_path, capsys):
    assert cli.main(["build-engines", str(tmp_path)]) == 2
    assert "is no exported folder" in capsys.readouterr().err


def test_the_profiles_can_be_listed(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["build-engines", "--list-profiles"])
    assert stop.value.code == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "agx-orin",
        "h200",
        "orin-nano",
        "rtx",
        "thor",
    ]
