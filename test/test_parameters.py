# SPDX-License-Identifier: Apache-2.0
"""One schema: the defaults keep it, what breaks it is named, and the page and the shipped file follow it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pixelrefer_ros.errors import ParameterError
from pixelrefer_ros.parameters import SCHEMA, Parameter, Parameters, check_parameters, find_parameter
from pixelrefer_ros.parameters import perception_settings as make_settings
from pixelrefer_ros.perception import MAX_ANSWER_TOKENS

ROOT = Path(__file__).resolve().parent.parent
NAMES = [parameter.name for parameter in SCHEMA]
BOUNDED = [p for p in SCHEMA if p.minimum is not None and p.maximum is not None]


def by_name(parameter: Parameter) -> str:
    return parameter.name


def test_every_documented_parameter_exists():
    documented = (
        "model tracker_model backend device precision engine_dir max_objects max_questions max_batch "
        "track_rate describe_new_objects describe_period history_frames max_tokens image_transport "
        "image_qos autostart"
    )
    assert set(documented.split()) <= set(NAMES)


@pytest.mark.parametrize("parameter", SCHEMA, ids=by_name)
def test_default_keeps_its_own_bounds_and_every_parameter_is_described(parameter):
    assert parameter.check(parameter.default) == parameter.default
    assert parameter.description


def test_nothing_given_gives_every_default():
    parameters = check_parameters({})
    assert parameters == Parameters()
    assert all(getattr(parameters, p.name) == p.default for p in SCHEMA)


@given(parameter=st.sampled_from(BOUNDED), data=st.data())
def test_numbers_within_bounds_are_taken_and_others_refused_by_name(parameter, data):
    low, high = parameter.minimum, parameter.maximum
    if parameter.type is int:
        value = data.draw(st.integers(-(10**9), 10**9))
    else:
        value = data.draw(st.floats(allow_nan=True, allow_infinity=True))
    if low <= value <= high or value == parameter.off:
        assert getattr(check_parameters({parameter.name: value}), parameter.name) == value
    else:
        with pytest.raises(ParameterError) as refusal:
            check_parameters({parameter.name: value})
        for part in (parameter.name, repr(value), str(low), str(high)):
            assert part in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("backend", "magic", "one of auto, tensorrt, onnxruntime, torch"),
        ("max_objects", "16", "int"),
        ("max_objects", True, "bool"),
        ("max_objects", 2.0, "float"),
        ("autostart", 1, "bool"),
        ("model", None, "str"),
        ("find_again_score", 0.3, "0.0, or from 0.5 to 1.0"),
        ("model", "x" * 5000, "4096"),
        ("describe_new_objects", "x" * 2001, "2000"),
        ("no_such_thing", 1, "no_such_thing"),
    ],
)
def test_refusal_names_parameter_and_remedy(name, value, told):
    with pytest.raises(ParameterError, match=name) as refusal:
        check_parameters({name: value})
    assert told in str(refusal.value)


def test_whole_number_is_taken_for_a_float():
    assert check_parameters({"track_rate": 5}).track_rate == 5.0
    assert isinstance(check_parameters({"track_rate": 5}).track_rate, float)


@pytest.mark.parametrize(("name", "tracking"), [("", False), ("none", False), ("tiny-random", True)])
def test_tracking_is_switched_off_by_naming_no_tracker(name, tracking):
    assert check_parameters({"tracker_model": name}).tracking is tracking


@pytest.mark.parametrize("bound", ["minimum", "maximum"])
def test_perception_takes_every_value_the_schema_allows(bound):
    values = {p.name: p.type(getattr(p, bound)) for p in BOUNDED}
    settings = make_settings(check_parameters(values))
    assert settings.max_objects == values["max_objects"]
    assert settings.track_rate_hz == values["track_rate"]
    assert settings.history_interval_s == values["history_interval"]
    assert settings.describe_period_s == values["describe_period"]


def test_longest_answer_is_the_one_perception_allows():
    assert find_parameter("max_tokens").maximum == MAX_ANSWER_TOKENS


def test_reference_page_is_current():
    tool = ROOT / "tools" / "generate_parameters_doc.py"
    spec = importlib.util.spec_from_file_location("generate_parameters_doc", tool)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "parameters.md").read_text(encoding="utf-8")
    assert page == module.render_page(), "run: python tools/generate_parameters_doc.py"
    assert all(f"`{name}`" in page for name in NAMES)


def test_shipped_parameter_file_keeps_the_schema():
    path = ROOT / "config" / "pixelrefer.yaml"
    if not path.exists():
        pytest.skip("no config/pixelrefer.yaml in this tree")
    sections = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert sections
    for section in sections.values():
        values = {n: v for n, v in section["ros__parameters"].items() if n != "use_sim_time"}
        check_parameters(values)
