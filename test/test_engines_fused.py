# SPDX-License-Identifier: Apache-2.0
"""What TensorRT says while one engine is built: attention that is not fused, errors, warnings."""

from __future__ import annotations

import re

import engine_graphs
import pytest
from fake_tensorrt import FakeTensorRT
from fake_tensorrt_values import Severity
from pixelrefer_ros.engines import BuildOptions, build_engine

from pixelrefer_ros.errors import BackendError
from pixelrefer_ros.runtime.manifest import Profile
from pixelrefer_ros.runtime.tensorrt_messages import MOST, logger_of

PROFILES = {"batch": Profile(1, 1, 2), "sequence": Profile(1, 8, 16)}
MYELIN = "MyelinCheckException: wrap_attention_op_in_kgen.cpp:1909: CHECK(false) failed."
NOT_FUSED = (
    MYELIN,
    "Could not find any implementation for node {ForeignNode[/Attention]}.",
    "Attention was not supported by a dedicated kernel",
)
"""What different versions say where they have no fused attention."""


@pytest.fixture
def trt():
    return FakeTensorRT()


@pytest.fixture
def half_decoder(tmp_path, trt):
    """Builds a decoder in fp16, whose attention is fused where that can be."""
    manifest = engine_graphs.write_folder(
        tmp_path,
        {"decoder": engine_graphs.decoder("fp16")},
        precision="fp16",
        profiles=PROFILES,
        in_place=engine_graphs.caches(),
    )
    graph = manifest.graphs["decoder"]

    def built(**options):
        return build_engine(
            trt,
            tmp_path,
            graph,
            precision="fp16",
            profiles=graph.profiles,
            options=BuildOptions(16, **options),
        )

    return built


def builds(trt):
    return [call for call in trt.calls if call[0] == "build"]


@pytest.mark.parametrize("reason", NOT_FUSED)
def test_attention_that_does_not_build_fused_is_taken_apart_and_said_with_tensorrts_reason(
    half_decoder, trt, reason
):
    trt.unfused = reason
    (note,) = half_decoder().notes
    assert note == f"it does not build with fused attention ({reason}): taken apart, which is slower"
    assert len(builds(trt)) == 2


@pytest.mark.parametrize("reason", NOT_FUSED)
def test_attention_that_must_be_fused_is_not_taken_apart(half_decoder, trt, reason):
    trt.unfused = reason
    with pytest.raises(BackendError, match=re.escape(reason)):
        half_decoder(fused=True)
    assert len(builds(trt)) == 1


def test_a_build_that_fails_with_attention_taken_apart_too_gives_both_reasons(half_decoder, trt):
    trt.unfused, trt.build_error = MYELIN, "insufficient workspace"
    with pytest.raises(BackendError) as told:
        half_decoder()
    assert "graph decoder" in str(told.value) and "16 MiB of workspace: insufficient workspace" in str(
        told.value
    )
    assert str(told.value).endswith(f"; and before that, with fused attention: {MYELIN}")


def test_a_build_that_is_stopped_is_not_tried_again(half_decoder, trt):
    with pytest.raises(BackendError, match="graph decoder: the build was stopped"):
        half_decoder(stopped=lambda: True)
    assert len(builds(trt)) == 1


def test_what_tensorrt_warns_of_while_building_is_told_a_few_lines_of_it(half_decoder, trt):
    trt.build_warnings = [f"Skipping tactic {number}:\n insufficient memory" for number in (*range(7), 0)]
    assert half_decoder().notes == (
        *(f"TensorRT: Skipping tactic {number}: insufficient memory" for number in range(5)),
        "TensorRT: and 2 more",
    )


def test_errors_that_do_not_stop_the_build_are_told_as_well(half_decoder, trt):
    said = "Requested amount of GPU memory (1073741824 bytes) could not be allocated."
    trt.on_step = lambda: logger_of(trt).log(Severity.ERROR, said)
    assert half_decoder().notes == (f"TensorRT: {said}",)


def test_errors_are_told_however_many_warnings_came_before(half_decoder, trt):
    trt.build_warnings = [f"Skipping tactic {number}" for number in range(2 * MOST)]
    trt.build_error = "insufficient workspace"
    with pytest.raises(BackendError, match="insufficient workspace"):
        half_decoder(fused=True)


def test_a_warning_that_says_nothing_of_the_graph_is_logged_and_stops_nothing(half_decoder, trt, caplog):
    trt.builder_warnings = ["Unable to determine GPU memory usage"]
    assert half_decoder().notes == ()
    assert "TensorRT: Unable to determine GPU memory usage" in caplog.messages


def test_where_there_is_no_builder_the_build_says_so(half_decoder, trt):
    trt.no_builder = True
    with pytest.raises(
        BackendError, match="no builder on this machine: libnvinfer_builder_resource is missing"
    ):
        half_decoder()
