# SPDX-License-Identifier: Apache-2.0
"""What may be built: which opset a TensorRT reads, and which operators are on the list for the plain one."""

from __future__ import annotations

from types import SimpleNamespace

import engine_graphs
import pytest
from onnx import TensorProto, helper
from pixelrefer_ros.engines import check_opset, newest_opset, unsupported

from pixelrefer_ros.errors import BackendError


def library(version, name="tensorrt"):
    return SimpleNamespace(__name__=name, __version__=version)


@pytest.mark.parametrize(
    ("version", "opset"),
    [
        ("10.0.1", 20),
        ("10.3.0", 20),
        ("10.9.0.34", 20),
        ("10.14.1.48", 20),
        ("10.15.1.29", 24),
        ("10.16.0", 24),
        ("11.0.0", 24),
        ("11.4.1.8", 24),
    ],
)
def test_the_version_decides_the_opset(version, opset):
    assert newest_opset(library(version)) == opset


def test_tensorrt_rtx_counts_its_versions_anew():
    assert newest_opset(library("1.7.1.116", "tensorrt_rtx")) == 24


@pytest.mark.parametrize("version", ["8.6.1", "9.3.0", "unknown", ""])
def test_a_tensorrt_that_is_too_old_or_unknown_is_refused(version):
    with pytest.raises(BackendError, match=r"install TensorRT 10\.0 or later"):
        newest_opset(library(version))


def test_graphs_that_are_too_new_are_told_how_to_export_again():
    with pytest.raises(BackendError, match=r"tensorrt 10\.14\.1 reads up to 20.*--opset 20"):
        check_opset(library("10.14.1"), 24, "folder")
    check_opset(library("10.14.1"), 20, "folder")
    check_opset(library("10.15.0"), 24, "folder")


def test_graphs_of_the_older_opset_are_read_by_every_version():
    check_opset(library("11.4.1"), 20, "folder")


def test_the_small_graphs_are_on_the_list():
    assert unsupported(engine_graphs.decoder("fp16"), 24) == []
    assert unsupported(engine_graphs.projection("fp16", opset=20), 20) == []


def test_fused_operators_are_not_on_the_list_of_the_older_opset():
    problems = " ".join(unsupported(engine_graphs.decoder("fp16"), 20))
    assert all(name in problems for name in ("Attention", "TensorScatter", "RotaryEmbedding"))


def test_the_key_lengths_that_tensorrt_drops_in_silence_are_found():
    problems = unsupported(engine_graphs.with_unused_cache_lengths(engine_graphs.decoder("fp16")), 24)
    assert len(problems) == 2 and all("nonpad_kv_seqlen is not read" in problem for problem in problems)


@pytest.mark.parametrize("domain", ["com.microsoft", "pixelrefer"])
def test_operators_of_other_domains_are_not_on_the_list(domain):
    model = engine_graphs.projection()
    model.graph.node[0].domain = domain
    assert [f"{domain}::MatMul" in problem for problem in unsupported(model, 24)] == [True]


def test_operators_within_a_branch_are_looked_at_too():
    inner = helper.make_graph([helper.make_node("StringNormalizer", ["x"], ["z"])], "inner", [], [])
    outer = helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
    model = helper.make_model(helper.make_graph([outer], "outer", [], []))
    assert sum("StringNormalizer" in problem for problem in unsupported(model, 24)) == 2


def test_axes_that_are_no_constants_are_found():
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"])],
        "sums",
        [value("x", TensorProto.FLOAT, ["n", 2]), value("axes", TensorProto.INT64, [1])],
        [value("y", TensorProto.FLOAT, None)],
    )
    (problem,) = unsupported(helper.make_model(graph), 24)
    assert "axes must be constants" in problem
    graph.initializer.append(helper.make_tensor("axes", TensorProto.INT64, [1], [0]))
    assert unsupported(helper.make_model(graph), 24) == []


def with_one_operator(name, element, **attributes):
    value = helper.make_tensor_value_info
    node = helper.make_node(name, ["x"], ["y"], **attributes)
    graph = helper.make_graph([node], "one", [value("x", element, ["n"])], [value("y", element, ["n"])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


@pytest.mark.parametrize("name", ["Clip", "Sqrt"])
def test_element_types_that_an_operator_does_not_take_are_found(name):
    (problem,) = unsupported(with_one_operator(name, TensorProto.INT64), 20)
    assert "'x' is INT64, which it does not take" in problem
    for element in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16):
        assert unsupported(with_one_operator(name, element), 20) == []


def test_bytes_are_taken_by_nothing_but_a_cast():
    assert "UINT8" in unsupported(with_one_operator("Relu", TensorProto.UINT8), 20)[0]
    cast = with_one_operator("Cast", TensorProto.UINT8, to=TensorProto.FLOAT)
    cast.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    assert unsupported(cast, 20) == []


def test_an_element_type_that_is_not_known_is_found():
    model = with_one_operator("Relu", TensorProto.FLOAT)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UNDEFINED
    (problem,) = unsupported(model, 20)
    assert "element type of 'x' is not known" in problem


@pytest.mark.parametrize(
    ("element", "block", "problems"),
    [
        (TensorProto.INT8, 0, 0),
        (TensorProto.INT8, 32, 1),
        (TensorProto.INT8, 64, 1),
        (TensorProto.INT4, 32, 1),
        (TensorProto.INT4, 64, 0),
        (TensorProto.INT4, 128, 0),
    ],
)
def test_numbers_that_share_a_scale_by_blocks_which_are_not_documented_are_found(element, block, problems):
    value = helper.make_tensor_value_info
    rows = 128 // block if block else 1
    scales = value("s", TensorProto.FLOAT16, [rows, 2] if block else [])
    node = helper.make_node("DequantizeLinear", ["x", "s"], ["y"], axis=0, block_size=block)
    output = value("y", TensorProto.FLOAT16, [128, 2])
    graph = helper.make_graph([node], "one", [value("x", element, [128, 2]), scales], [output])
    found = unsupported(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)]), 24)
    assert len(found) == problems
    assert all("INT4 by 64 or 128" in problem for problem in found)
