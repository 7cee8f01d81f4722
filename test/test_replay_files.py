# SPDX-License-Identifier: Apache-2.0
"""The regions and questions files: what is written is understood; every mistake is named where it stands."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pixelrefer_ros.errors import InputFileError
from pixelrefer_ros.offline.fields import MAX_ENTRIES, MAX_FILE_BYTES
from pixelrefer_ros.offline.files import When, read_questions, read_regions
from pixelrefer_ros.types import Box

REGIONS = [
    {"id": "cup", "at": 0.5, "box": [210, 120, 80, 90], "label": "red cup"},
    {"id": "spoon", "frame": 12, "points": [[300.5, 200, 1], [250, 210, 0]]},
    {"id": "cup", "stamp_ns": 1_700_000_000_000_000_001, "mask": "cup.png"},
    {"box": [0, 0, 5, 5]},
]
QUESTIONS = [
    {"text": "What is <region>?", "objects": ["cup"]},
    {"id": "two", "text": "Is <region> on <region>?", "objects": ["spoon", 1], "frames": 4, "history_s": 2.5},
    {"text": "And now?", "objects": [4], "every_s": 0.25, "max_tokens": 9},
    {"text": "And then?", "objects": ["4"], "every_s": 2, "at": 1},
]


def write(path: Path, content: object) -> Path:
    """As YAML or JSON, by its name."""
    path.write_text(json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content))
    return path


@pytest.fixture
def mask(tmp_path) -> np.ndarray:
    """What cup.png holds."""
    values = np.zeros((6, 9), np.uint8)
    values[2:4, 3:7] = 1
    cv2.imwrite(str(tmp_path / "cup.png"), values)
    return values != 0


@pytest.mark.parametrize("name", ["r.yaml", "r.json"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_regions_are_read_as_written(tmp_path, mask, name, wrapped):
    regions = read_regions(write(tmp_path / name, {"regions": REGIONS} if wrapped else REGIONS))
    assert [r.name for r in regions] == ["cup", "spoon", "cup", "4"]
    assert [r.number for r in regions] == [1, 2, 3, 4]
    assert [r.when for r in regions] == [
        When(after_ns=500_000_000),
        When(frame=12),
        When(stamp_ns=1_700_000_000_000_000_001),
        When(frame=0),
    ]
    assert [r.region.label for r in regions] == ["red cup", "spoon", "cup", ""]
    assert regions[0].region.box == Box(210, 120, 80, 90)
    np.testing.assert_array_equal(regions[1].region.points, np.array([[300.5, 200], [250, 210]], np.float32))
    assert regions[1].region.points.dtype == np.float32
    assert regions[1].region.point_labels.tolist() == [1, 0]
    np.testing.assert_array_equal(regions[2].region.mask, mask)


@pytest.mark.parametrize("name", ["q.yaml", "q.json"])
def test_questions_are_read_as_written(tmp_path, mask, name):
    regions = read_regions(write(tmp_path / "r.yaml", REGIONS))
    first, second, third, fourth = read_questions(write(tmp_path / name, QUESTIONS), regions)
    assert (first.id, first.text, first.objects, first.when) == ("q1", "What is <region>?", ("cup",), None)
    assert (first.frames, first.history_s, first.max_tokens, first.every_ns) == (1, 0.0, 0, 0)
    assert (second.id, second.objects, second.frames, second.history_s) == ("two", ("spoon", "cup"), 4, 2.5)
    assert (third.objects, third.every_ns, third.max_tokens) == (("4",), 250_000_000, 9)
    assert third.when == When(frame=0)
    assert fourth.when == When(after_ns=1_000_000_000)


def test_a_number_is_that_of_an_entry_also_after_a_correction(tmp_path):
    box = {"box": [1, 2, 3, 4]}
    regions = read_regions(write(tmp_path / "r.json", [box | {"id": "cup"}, box | {"id": "cup"}, box, box]))
    asked = [{"text": "What?", "objects": [wanted]} for wanted in (1, 2, 3, "3", 4, "4")]
    questions = read_questions(write(tmp_path / "q.json", asked), regions)
    names = [name for question in questions for name in question.objects]
    assert names == ["cup", "cup", "3", "3", "4", "4"]


def test_a_region_without_an_id_is_not_taken_for_a_correction_of_one_whose_id_is_its_number(tmp_path):
    box = {"box": [1, 2, 3, 4]}
    with pytest.raises(InputFileError, match="region 2: id is missing; another region has the id '2'"):
        read_regions(write(tmp_path / "r.json", [box | {"id": "2"}, box]))
    assert len(read_regions(write(tmp_path / "r.json", [box, box | {"id": "2"}]))) == 2


@pytest.mark.parametrize(
    ("when", "reached"),
    [
        (When(frame=3), {2: False, 3: True, 5: True}),
        (When(after_ns=250), {2: False, 3: True}),
        (When(stamp_ns=1300), {2: False, 3: True}),
        (When(after_ns=0), {0: True}),
    ],
)
def test_an_entry_is_due_at_the_first_frame_at_or_after_its_moment(when, reached):
    for index, expected in reached.items():
        assert when.reached(index, 1000 + 100 * index, 1000) is expected


REGION_MISTAKES = [
    ({"box": [1, 2, 3]}, ["region 1", "box", "[1, 2, 3]", "[x, y, width, height]"]),
    ({"box": [1, 2, 3, "4"]}, ["box", "whole pixels"]),
    ({"box": [1, 2, 3.5, 4]}, ["box"]),
    ({"box": [1, 2, -3, 4]}, ["box"]),
    ({"box": [1, 2, 2**40, 4]}, ["box"]),
    ({"box": [True, 2, 3, 4]}, ["box"]),
    ({"box": {}}, ["box", "give a list"]),
    ({"box": [1, 2, 3, 4], "points": [[1, 2, 1]]}, ["points", "box is given too"]),
    ({}, ["box is missing", "points, mask"]),
    ({"points": []}, ["points"]),
    ({"points": [[1, 2]]}, ["points", "[x, y, label]"]),
    ({"points": [[1, 2, 3]]}, ["points", "label"]),
    ({"points": [[1, float("nan"), 1]]}, ["points"]),
    ({"points": [[1, 10**400, 1]]}, ["points"]),
    ({"points": 5}, ["points"]),
    ({"mask": "nothing.png"}, ["mask", "'nothing.png'", "PNG"]),
    ({"mask": "r.json"}, ["mask", "no PNG"]),
    ({"mask": 3}, ["mask", "text"]),
    ({"box": [1, 2, 3, 4], "at": -1}, ["at is -1", "seconds"]),
    ({"box": [1, 2, 3, 4], "at": float("inf")}, ["at is inf"]),
    ({"box": [1, 2, 3, 4], "at": "1"}, ["at is '1'"]),
    ({"box": [1, 2, 3, 4], "frame": 1.5}, ["frame is 1.5", "whole number"]),
    ({"box": [1, 2, 3, 4], "frame": True}, ["frame is True"]),
    ({"box": [1, 2, 3, 4], "frame": 2**70}, ["frame"]),
    ({"box": [1, 2, 3, 4], "frame": 1, "at": 2}, ["frame is 1", "at is given too"]),
    ({"box": [1, 2, 3, 4], "id": ""}, ["id is ''"]),
    ({"box": [1, 2, 3, 4], "id": 7}, ["id is 7", "in quotes"]),
    ({"box": [1, 2, 3, 4], "lable": "x"}, ["'lable'", "label"]),
]


@pytest.mark.parametrize(("entry", "named"), REGION_MISTAKES)
def test_a_mistake_in_a_region_is_named_where_it_stands(tmp_path, entry, named):
    path = write(tmp_path / "r.json", [entry])
    with pytest.raises(InputFileError) as caught:
        read_regions(path)
    for part in [str(path), *named]:
        assert part in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(path))


QUESTION_MISTAKES = [
    ({"objects": ["cup"]}, ["question 1", "text is missing"]),
    ({"text": " ", "objects": ["cup"]}, ["text is ' '"]),
    ({"text": "What?"}, ["objects is missing"]),
    ({"text": "What?", "objects": []}, ["objects is []"]),
    ({"text": "What?", "objects": "cup"}, ["objects is 'cup'", "list"]),
    ({"text": "What?", "objects": ["pan"]}, ["'pan'", "cup, spoon"]),
    ({"text": "What?", "objects": [0]}, ["0 is no object"]),
    ({"text": "What?", "objects": [4]}, ["4 is no object", "its objects: cup, spoon"]),
    ({"text": "What?", "objects": [[1]]}, ["[1] is no object"]),
    ({"text": "What?", "objects": [1], "frames": 0}, ["frames is 0", "at least 1"]),
    ({"text": "What?", "objects": [1], "every_s": 0}, ["every_s is 0", "more than 0"]),
    ({"text": "What?", "objects": [1], "history_s": -1}, ["history_s is -1"]),
    ({"text": "What?", "objects": [1], "max_tokens": "5"}, ["max_tokens is '5'"]),
    ({"text": "What?", "objects": [1], "when": 5}, ["'when'", "every_s"]),
]


@pytest.mark.parametrize(("entry", "named"), QUESTION_MISTAKES)
def test_a_mistake_in_a_question_is_named_where_it_stands(tmp_path, mask, entry, named):
    regions = read_regions(write(tmp_path / "r.yaml", REGIONS[:3]))
    path = write(tmp_path / "q.json", [entry])
    with pytest.raises(InputFileError) as caught:
        read_questions(path, regions)
    for part in [str(path), *named]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("r.yaml", b"[1, 2", "not valid YAML"),
        ("r.json", b"[1, 2", "not valid JSON"),
        ("r.yaml", b"\xff\xfe\x00", "UTF-8"),
        ("r.yaml", b"!!python/object/apply:os.getcwd []", "not valid YAML"),
        ("r.yaml", b"2001-99-99", "not valid YAML"),
        ("r.yaml", b"", "found None"),
        ("r.yaml", b"objects: []", "`regions:`"),
        ("r.yaml", b"regions: 5", "found 5"),
        ("r.yaml", b"- 5", "region 1 is 5"),
        ("r.yaml", b"- " * 3000 + b"a", "valid YAML|region 1"),
        ("r.yaml", b"- {}\n" * (MAX_ENTRIES + 1), f"at most {MAX_ENTRIES}"),
        ("r.yaml", b" " * (MAX_FILE_BYTES + 1), f"at most {MAX_FILE_BYTES}"),
    ],
)
def test_a_file_that_is_no_such_list_is_one_clear_error(tmp_path, name, content, named):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputFileError, match=named):
        read_regions(tmp_path / name)


def test_a_missing_file_is_one_clear_error(tmp_path):
    with pytest.raises(InputFileError, match=r"nothing\.yaml"):
        read_regions(tmp_path / "nothing.yaml")


def test_a_mask_that_claims_a_huge_size_is_refused_before_decoding(tmp_path, mask, monkeypatch):
    raw = bytearray((tmp_path / "cup.png").read_bytes())
    raw[16:24] = (60000).to_bytes(4, "big") * 2
    (tmp_path / "cup.png").write_bytes(raw)
    monkeypatch.setattr(cv2, "imdecode", None)  # calling it would be a TypeError
    with pytest.raises(InputFileError, match="no PNG"):
        read_regions(write(tmp_path / "r.yaml", [{"mask": "cup.png"}]))


def test_an_alias_bomb_stays_small_in_the_message(tmp_path):
    lines = ["- &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"- &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    (tmp_path / "r.yaml").write_text("\n".join([*lines, "- box: *a11"]))
    with pytest.raises(InputFileError) as caught:
        read_regions(tmp_path / "r.yaml")
    assert len(str(caught.value)) < 1000


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "id",
        "label",
        "at",
        "frame",
        "stamp_ns",
        "box",
        "points",
        "mask",
        "text",
        "objects",
        "every_s",
        "frames",
        "history_s",
        "max_tokens",
    ]
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.lists(st.dictionaries(FIELDS, JSON_VALUES, max_size=4), max_size=2) | JSON_VALUES)
def test_any_content_is_read_or_refused_with_a_domain_error(tmp_path, content):
    path = write(tmp_path / "x.json", content)
    for read in (read_regions, lambda p: read_questions(p, [])):
        try:
            read(path)
        except InputFileError as error:
            assert str(path) in str(error)
