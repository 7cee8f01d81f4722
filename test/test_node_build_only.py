# SPDX-License-Identifier: Apache-2.0
"""The node builds engines, once with `build_only` or before it loads: what it says, how its process ends."""

from __future__ import annotations

import signal
import sys

import engine_graphs
import fake_tensorrt
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("pixelrefer_ros.msg")
pytestmark = pytest.mark.ros

from node_processes import Child, node_process, stop_limit_s  # noqa: E402

from pixelrefer_ros.runtime.manifest import Profile  # noqa: E402

RTX = "--gpu=NVIDIA GeForce RTX 4090"


@pytest.fixture
def folders(tmp_path):
    """Two exported folders as the parameters name them; the small graphs stand for both kinds of model."""
    for name in ("language", "tracker"):
        engine_graphs.write_folder(
            tmp_path / name,
            {"vision": engine_graphs.projection("fp16")},
            precision="fp16",
            profiles={"rows": Profile(1, 2, 4)},
        )
    return {"model": str(tmp_path / "language"), "tracker_model": str(tmp_path / "tracker")}


def building_node(parameters, *fake: str, build_only: bool = True) -> Child:
    """The node, on a machine that has the stand-in for TensorRT."""
    command = (sys.executable, fake_tensorrt.__file__, *fake, "pixelrefer_ros.ros.main")
    return node_process({**parameters, "build_only": build_only}, command=command)


def end_of(node: Child) -> tuple[int, str]:
    """The exit code and output of a node that ends by itself."""
    code = node.process.wait(90.0)
    node._reader.join(5.0)
    assert "Traceback" not in node.output and "a callback failed" not in node.output
    return code, node.output


def test_both_models_are_built_and_the_next_start_finds_them_up_to_date(folders, tmp_path):
    engines = {**folders, "engine_dir": str(tmp_path / "engines")}
    with building_node(engines, RTX) as node:
        code, said = end_of(node)
    assert code == 0, said
    assert "tensorrt 10.15.1.29 on NVIDIA GeForce RTX 4090" in said and "profile rtx" in said
    assert said.count("vision: building (there is none)") == said.count("vision: built in") == 2
    assert said.index("vision: built in") < said.index("every engine is there")
    assert "loading model" not in said
    assert {path.parent.name for path in (tmp_path / "engines").glob("*/*.plan")} == {"language", "tracker"}
    with building_node(engines, RTX) as node:
        code, said = end_of(node)
    assert code == 0 and said.count("vision: up to date") == 2 and "vision: built in" not in said, said


def test_without_a_gpu_the_process_fails_with_one_error(folders, tmp_path):
    with building_node(folders) as node:
        code, said = end_of(node)
    assert code == 1, said
    (error,) = [line for line in node.lines if "ERROR" in line]
    assert "cannot build the engines: torch sees no CUDA GPU" in error
    assert not list(tmp_path.glob("*/engines/*"))


def test_a_signal_while_building_stops_the_node_which_fails(folders, tmp_path):
    with building_node(folders, RTX, "--step-s=600") as node:
        node.wait_for_line("vision: building")
        code, seconds = node.stop(signal.SIGTERM)
        assert (code, seconds < stop_limit_s()) == (1, True), node.output
        node.wait_for_line("stopped while building")
    assert [path.name for path in tmp_path.glob("*/engines/*")] == ["building.lock"]


def test_engines_that_are_missing_are_built_before_loading(folders, tmp_path):
    with building_node({**folders, "device": "cuda"}, RTX, build_only=False) as node:
        # The stand-in's GPU is none of torch's: loading fails, and the node stays.
        node.wait_for_line("cannot configure")
        said = node.output
    assert said.count("building the TensorRT engines") == said.count("vision: built in") == 2, said
    assert {path.parent.parent.name for path in tmp_path.glob("*/engines/*.plan")} == {"language", "tracker"}


def test_a_signal_while_engines_are_built_before_loading_stops_the_node(folders, tmp_path):
    with building_node({**folders, "device": "cuda"}, RTX, "--step-s=600", build_only=False) as node:
        node.wait_for_line("vision: building")
        code, seconds = node.stop(signal.SIGTERM)
        assert (code, seconds < stop_limit_s()) == (0, True), node.output
    assert [path.name for path in tmp_path.glob("*/engines/*")] == ["building.lock"]
