# SPDX-License-Identifier: Apache-2.0
"""Profiles of machines: strictly read, chosen by name or by GPU, bounding what the export allows."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pixelrefer_ros.engines import choose_profile, read_profile, shipped_profiles

from pixelrefer_ros.errors import ParameterError
from pixelrefer_ros.runtime.manifest import Graph, Profile, TensorSpec
from pixelrefer_ros.runtime.tensorrt_plans import Gpu

GOOD = {
    "gpu_names": ["*Toy*"],
    "compute_capabilities": ["8.6", "12.0"],
    "min_memory_gb": 4,
    "precisions": ["fp16", "int8"],
    "patch_budget": 2048,
    "objects": 3,
    "context_length": 512,
    "workspace_mb": 64,
}


def write(path: Path, **changes: object) -> Path:
    content = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(content))
    return path


def test_there_is_a_profile_for_each_class_of_machine():
    assert {profile.name for profile in shipped_profiles()} == {
        "orin-nano",
        "agx-orin",
        "thor",
        "rtx",
        "h200",
    }


def test_shipped_profiles_take_no_weights_in_blocks_that_tensorrt_does_not_document():
    taken = {precision for profile in shipped_profiles() for precision in profile.precisions}
    assert taken == {"fp16", "bf16", "int4"}  # whose blocks are of 64


@pytest.mark.parametrize(
    ("gpu", "name"),
    [
        (Gpu("Orin", (8, 7), 8.0), "orin-nano"),
        (Gpu("Orin", (8, 7), 16.2), "orin-nano"),
        (Gpu("Orin", (8, 7), 32.9), "agx-orin"),
        (Gpu("Orin", (8, 7), 65.9), "agx-orin"),
        (Gpu("NVIDIA Thor", (11, 0), 128.0), "thor"),
        (Gpu("NVIDIA GeForce RTX 3060", (8, 6), 12.0), "rtx"),
        (Gpu("NVIDIA RTX PRO 6000 Blackwell", (12, 0), 96.0), "rtx"),
        (Gpu("NVIDIA H200", (9, 0), 150.1), "h200"),
    ],
)
def test_a_gpu_finds_its_profile(gpu, name):
    assert choose_profile(None, gpu).name == name


def test_a_gpu_without_a_profile_is_told_which_there_are():
    with pytest.raises(ParameterError, match=r"GeForce GTX 1080.*6\.1.*--profile.*agx-orin"):
        choose_profile(None, Gpu("NVIDIA GeForce GTX 1080", (6, 1), 8.0))


def test_a_name_or_a_file_is_taken_whatever_the_gpu_is(tmp_path):
    elsewhere = Gpu("NVIDIA H200", (9, 0), 150.0)
    assert choose_profile("orin-nano", elsewhere).name == "orin-nano"
    mine = choose_profile(str(write(tmp_path / "mine.yaml")), elsewhere)
    assert (mine.name, mine.precisions, mine.objects) == ("mine", ("fp16", "int8"), 3)
    assert mine.compute_capabilities == ((8, 6), (12, 0))


def test_an_unknown_name_is_told_which_there_are():
    with pytest.raises(ParameterError, match=r"'orin'.*agx-orin, h200, orin-nano, rtx, thor"):
        choose_profile("orin", Gpu("Orin", (8, 7), 8.0))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gpu_names", []),
        ("gpu_names", "*Orin*"),
        ("gpu_names", [1]),
        ("compute_capabilities", [8.7]),
        ("compute_capabilities", ["sm_87"]),
        ("min_memory_gb", "8"),
        ("min_memory_gb", -1),
        ("min_memory_gb", float("nan")),
        ("precisions", ["fp8"]),
        ("precisions", ["fp16", "fp16"]),
        ("patch_budget", 10),
        ("patch_budget", 4096.0),
        ("objects", 0),
        ("objects", True),
        ("context_length", 1 << 20),
        ("workspace_mb", "1 GB"),
    ],
)
def test_a_wrong_value_is_told_with_file_field_and_value(tmp_path, field, value):
    path = write(tmp_path / "wrong.yaml", **{field: value})
    with pytest.raises(ParameterError) as error:
        read_profile(path)
    said = str(error.value)
    assert str(path) in said and f"{field} is {value!r}" in said and "give " in said


@pytest.mark.parametrize("field", GOOD)
def test_a_missing_field_is_named(tmp_path, field):
    with pytest.raises(ParameterError, match=f"{field} is missing"):
        read_profile(write(tmp_path / "short.yaml", **{field: None}))


def test_an_unknown_field_is_named(tmp_path):
    with pytest.raises(ParameterError, match=r"'workspace' is no field"):
        read_profile(write(tmp_path / "more.yaml", workspace=1))


@pytest.mark.parametrize("content", ["", "[1]", "a: [", "!!python/object:os.system {}", "x" * 70_000])
def test_what_is_no_profile_is_an_error_of_the_domain(tmp_path, content):
    path = tmp_path / "odd.yaml"
    path.write_text(content)
    with pytest.raises(ParameterError, match=r"odd\.yaml"):
        read_profile(path)
    with pytest.raises(ParameterError, match=r"none\.yaml"):
        read_profile(tmp_path / "none.yaml")


def test_sizes_are_those_of_the_export_cut_at_the_bounds_of_the_profile(tmp_path):
    profile = read_profile(write(tmp_path / "mine.yaml"))
    inputs = (TensorSpec("features", "float16", ("P", 8)), TensorSpec("boxes", "int64", ("K", 4)))
    allowed = {"P": Profile(1, 3000, 4096), "K": Profile(1, 1, 2), "F": Profile(1, 1, 16)}
    graph = Graph("objects", "objects.onnx", "0", inputs, (), profiles=allowed)
    assert profile.sizes(graph) == {
        "P": Profile(1, 2048, 2048),  # cut, and with it the size to be fastest at
        "K": Profile(1, 1, 2),  # the export allows less
        "F": Profile(1, 1, 16),  # not bounded
    }


@pytest.mark.parametrize(("most", "usual"), [(4096, 256), (200, 200)])
def test_a_decoder_is_fastest_at_usual_prompts(tmp_path, most, usual):
    profile = read_profile(write(tmp_path / "mine.yaml"))
    graph = Graph("decoder", "decoder.onnx", "0", (), (), profiles={"S": Profile(1, 1, most)})
    assert profile.sizes(graph) == {"S": Profile(1, usual, min(most, profile.context_length))}


def test_a_bound_below_the_smallest_size_is_not_applied(tmp_path):
    profile = read_profile(write(tmp_path / "mine.yaml"))
    graph = Graph("decoder", "decoder.onnx", "0", (), (), profiles={"C": Profile(1024, 1024, 4096)})
    assert profile.sizes(graph) == {"C": Profile(1024, 1024, 1024)}


def test_the_content_hash_speaks_of_the_engine_only(tmp_path):
    first = read_profile(write(tmp_path / "a.yaml"))
    renamed = read_profile(write(tmp_path / "b.yaml", gpu_names=["*"], min_memory_gb=0))
    smaller = read_profile(write(tmp_path / "c.yaml", objects=2))
    assert first.content_hash == renamed.content_hash != smaller.content_hash
