# SPDX-License-Identifier: Apache-2.0
"""The launch files: their arguments, and the parameter file that they give to the node."""

from __future__ import annotations

import sys
from unittest.mock import MagicMock

import pytest
import yaml
from source_tree import ROOT, load_file


def test_the_launch_parameter_file_holds_the_defaults_of_the_schema() -> None:
    from pixelrefer_ros.parameters import SCHEMA, check_parameters

    given = yaml.safe_load((ROOT / "config/pixelrefer.yaml").read_text(encoding="utf-8"))["/**"][
        "ros__parameters"
    ]
    check_parameters(given)
    defaults = {parameter.name: parameter.default for parameter in SCHEMA}
    assert given == {name: defaults[name] for name in given}


def launched(monkeypatch: pytest.MonkeyPatch, **given: str) -> dict[str, object]:
    """What pixelrefer.launch.py sets over the parameter file.

    With stand-ins for launch, which is not among the wheels of ROS.
    """

    def configuration(name: str) -> MagicMock:
        return MagicMock(perform=lambda context: context.launch_configurations[name])

    parts = ("", ".actions", ".substitutions", "_ros", "_ros.actions", "_ros.parameter_descriptions")
    launch = {f"launch{part}": MagicMock() for part in parts}
    launch["launch.substitutions"].LaunchConfiguration = configuration
    launch["launch_ros.actions"].Node = dict
    launch["launch_ros.parameter_descriptions"].ParameterValue = lambda value, value_type: value_type(value)
    for name, stand_in in launch.items():
        monkeypatch.setitem(sys.modules, name, stand_in)
    launch_file = load_file(ROOT / "launch/pixelrefer.launch.py")
    defaults = {name: default for name, default, _ in launch_file.ARGUMENTS}
    node = launch_file.start_node(MagicMock(launch_configurations=defaults | given))[-1]
    file, *overrides = node["parameters"]
    assert file == str(ROOT / "config/pixelrefer.yaml")
    return dict(*overrides)


def test_launch_arguments_left_empty_override_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched(monkeypatch) == {}


def test_launch_arguments_override_the_parameter_file(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "model": "7",
        "tracker_model": "none",
        "backend": "torch",
        "device": "cuda:1",
        "precision": "bfloat16",
        "engine_dir": "/engines",
        "engine_profile": "thor",
        "autostart": "False",
        "build_only": "true",
        "use_sim_time": "true",
    }
    booleans = {"autostart": False, "build_only": True, "use_sim_time": True}
    assert launched(monkeypatch, **given) == given | booleans


@pytest.mark.parametrize("name", ["pixelrefer.launch.py", "replay.launch.py"])
def test_launch_files_describe_their_arguments(name: str) -> None:
    pytest.importorskip("launch_ros")
    description = load_file(ROOT / "launch" / name).generate_launch_description()
    arguments = {argument.name for argument in description.get_launch_arguments()}
    expected = {"model", "tracker_model", "image_topic", "namespace", "backend", "params_file", "autostart"}
    assert expected - arguments == set()
