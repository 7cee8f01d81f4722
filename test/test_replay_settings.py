# SPDX-License-Identifier: Apache-2.0
"""A replay with the parameters of a robot: its file, `-p NAME:=VALUE`, and the options before both."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from perception_parts import frame
from replay_command import FRAMES, REGIONS, TOPIC, Replay

from pixelrefer_ros.errors import InputFileError, ParameterError
from pixelrefer_ros.offline import write_image_bag
from pixelrefer_ros.offline.settings import USED, add_parameter_arguments, read_parameters
from pixelrefer_ros.parameters import BY_NAME, Parameters

ROOT = Path(__file__).parent.parent
MODELS = ["--model", "m", "--tracker-model", "none"]


def read(*options: str, told: list[str] | None = None) -> Parameters:
    """What a command line gives."""
    parser = argparse.ArgumentParser()
    add_parameter_arguments(parser)
    return read_parameters(parser.parse_args(options), (told if told is not None else []).append)


@pytest.fixture
def robot(tmp_path):
    """Writes a parameters file."""

    def write(text: str) -> str:
        (tmp_path / "robot.yaml").write_text(text)
        return str(tmp_path / "robot.yaml")

    return write


@pytest.mark.usefixtures("one_thread")
def test_answers_look_back_as_far_as_the_settings_of_the_robot_let_them(tmp_path):
    bag = write_image_bag(tmp_path / "bag", map(frame, range(FRAMES)), TOPIC)
    replay = Replay(tmp_path, bag)
    replay.regions = REGIONS[:1]
    replay.questions = [
        {"text": "What?", "objects": ["square"], "frames": 8, "history_s": 1, "max_tokens": 2},
    ]

    def looked_at(*options: str) -> list[int]:
        _, (answer,) = replay(*options)
        return answer["frame_stamps_ns"]

    assert looked_at() == [frame(index).stamp_ns for index in range(FRAMES)]
    assert looked_at("-p", "history_interval:=0.4") == [frame(index).stamp_ns for index in (0, 4, 7)]


def test_without_options_everything_has_the_default_of_the_node():
    assert read(*MODELS) == Parameters(model="m", tracker_model="none")


def test_an_option_goes_before_an_assignment_and_that_before_the_file(robot):
    file = robot("/**: {ros__parameters: {model: f, tracker_model: none, max_objects: 3, top_p: 0.5}}")
    given = ["--params-file", file, "-p", "max_objects:=5", "-p", "device:=cuda", "--device", "cpu"]
    assert read(*given) == Parameters(model="f", tracker_model="none", max_objects=5, top_p=0.5, device="cpu")


def test_the_file_that_comes_with_the_package_is_taken():
    told: list[str] = []
    assert read("--params-file", str(ROOT / "config/pixelrefer.yaml"), told=told) == Parameters()
    assert told == []


def test_the_later_section_of_a_file_counts_and_other_nodes_are_passed_over(robot):
    file = robot(
        """
        /**:
          ros__parameters: {model: m, tracker_model: none, max_objects: 3, lost_after: 4, use_sim_time: true}
        arm:
          pixelrefer: {ros__parameters: {max_objects: 7}}
          camera: {ros__parameters: {max_objects: 9, exposure: 3}}
        """
    )
    told: list[str] = []
    assert read("--params-file", file, told=told) == Parameters(
        model="m", tracker_model="none", max_objects=7, lost_after=4.0
    )
    assert len(told) == 1 and "use_sim_time" in told[0]


@pytest.mark.parametrize("name", sorted(set(BY_NAME) - set(USED)))
def test_what_a_replay_does_not_use_is_passed_over_in_a_file_and_refused_as_an_assignment(robot, name):
    value = BY_NAME[name].default
    file = robot(
        f"/**: {{ros__parameters: {{model: m, tracker_model: none, {name}: {value!r}}}}}".replace(
            "True", "true"
        ).replace("False", "false")
    )
    assert read("--params-file", file) == Parameters(model="m", tracker_model="none")
    with pytest.raises(ParameterError, match=f"{name} means nothing in a replay"):
        read(*MODELS, "-p", f"{name}:={value}")


@pytest.mark.parametrize(
    ("assignment", "named"),
    [
        ("max_objects=3", "NAME:=VALUE"),
        ("max_object:=3", "max_objects"),
        ("max_objects:=many", "'many' is a str"),
        ("max_objects:=0", "out of bounds"),
        ("max_objects:=[", "no YAML value"),
        ("history_interval:=.nan", "nan is out of bounds"),
    ],
)
def test_an_assignment_that_is_wrong_is_refused_with_its_value(assignment, named):
    with pytest.raises(ParameterError, match=named.replace("[", r"\[")):
        read(*MODELS, "-p", assignment)


def test_a_text_is_taken_as_it_is_written():
    assert read(*MODELS, "-p", "engine_dir:=7").engine_dir == "7"


@pytest.mark.parametrize(
    ("text", "error", "named"),
    [
        ("/**: {ros__parameters: {max_objects: many}}", ParameterError, "robot.yaml: parameter max_objects"),
        ("[1, 2]", InputFileError, r"found \[1, 2\]; give a ROS parameters file"),
        ("", InputFileError, "found None"),
        ("/camera: {ros__parameters: {exposure: 3}}", InputFileError, "found .'/camera'"),
        ("model: m", InputFileError, "found {'model': 'm'}"),
        (
            "/a/pixelrefer: {ros__parameters: {top_p: 1}}\n/b/pixelrefer: {ros__parameters: {top_p: 1}}",
            InputFileError,
            "values for /a/pixelrefer, /b/pixelrefer; leave those of one",
        ),
        ("/**: {", InputFileError, "not valid YAML"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_name(robot, text, error, named):
    with pytest.raises(error, match=named):
        read(*MODELS, "--params-file", robot(text))


def test_a_model_must_be_named_somewhere(robot):
    with pytest.raises(ParameterError, match="no --model is given"):
        read("--params-file", robot("/**: {ros__parameters: {tracker_model: none}}"))
    with pytest.raises(ParameterError, match="no --tracker-model is given"):
        read("-p", "model:=m")
