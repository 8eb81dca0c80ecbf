from __future__ import annotations

import copy

import pytest
from onnx import TensorProto, helper

from inference.artifact.errors import ArtifactError
from inference.artifact.onnx import parse_model
from inference.artifact.onnx_interface import check_interface
from strongroom.interface import Interface
from tests.inference.artifact.onnx_models import LINEAR_INTERFACE, linear, model, value


def check(data: bytes, interface: dict) -> None:
    check_interface(parse_model(memoryview(data)), Interface.parse(interface))


def refuse(data: bytes, interface: dict) -> str:
    with pytest.raises(ArtifactError) as caught:
        check(data, interface)
    assert caught.value.reason_code == "interface_mismatch"
    return caught.value.detail


def interface(change) -> dict:
    changed = copy.deepcopy(LINEAR_INTERFACE)
    change(changed)
    return changed


def graph(shape: list, kind: int = TensorProto.FLOAT, out: list | None = None) -> bytes:
    node = helper.make_node("Identity", ["x"], ["y"])
    return model([node], [value("x", shape, kind)], [value("y", out or shape, kind)])


def test_fitting_interface_is_accepted():
    check(linear(), LINEAR_INTERFACE)


_MISMATCHES = {
    "name": (lambda i: i["inputs"][0].update(name="z"), "needs the input 'x'"),
    "output_name": (lambda i: i["outputs"][0].update(name="z"), "no output 'z'"),
    "type": (lambda i: i["inputs"][0].update(datatype="FP64"), "is FP32 in the graph"),
    "output_type": (lambda i: i["outputs"][0].update(datatype="INT64"), "is FP32 in the graph"),
    "shape": (lambda i: i["inputs"][0].update(shape=[15]), "has the shape [?, 16]"),
    "rank": (lambda i: i["inputs"][0].update(shape=[4, 4]), "has the shape [?, 16]"),
    "free_input": (lambda i: i["inputs"][0].update(shape=[-1]), "has the shape [?, 16]"),
    "output_shape": (lambda i: i["outputs"][0].update(shape=[5]), "has the shape [?, 4]"),
    "no_batch_axis": (
        lambda i: i.update(batch={"max_size": 1, "leading_axis": False}),
        "has the shape [?, 16]",
    ),
    "more_inputs": (
        lambda i: i["inputs"].append({"name": "k", "kind": "number"}),
        "no input 'k'",
    ),
}


@pytest.mark.parametrize("_case", _MISMATCHES)
def test_other_interface_is_refused(_case):
    change, detail = _MISMATCHES[_case]

    assert detail in refuse(linear(), interface(change))


def test_output_may_be_promised_free_where_the_graph_is_fixed():
    check(linear(), interface(lambda i: i["outputs"][0].update(shape=[-1])))


def test_outputs_of_the_graph_may_be_left_out():
    data = model(
        [helper.make_node("Identity", ["x"], [name]) for name in ("y", "other")],
        [value("x", [None, 16])],
        [value("y", [None, 16]), value("other", [None, 16])],
    )

    check(data, interface(lambda i: i["outputs"][0].update(shape=[16])))


def test_output_that_is_no_tensor_may_be_left_out_but_not_promised():
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    nodes = [
        helper.make_node("Identity", ["x"], ["y"]),
        helper.make_node("SequenceConstruct", ["x"], ["s"]),
    ]
    data = model(nodes, [value("x", [None, 4])], [value("y", [None, 4]), sequence])
    one = {"name": "x", "kind": "tensor", "datatype": "FP32", "shape": [4]}
    fitting = {"inputs": [one], "outputs": [one | {"name": "y"}]}

    check(data, fitting)
    assert "cannot be sent" in refuse(data, fitting | {"outputs": [one | {"name": "s"}]})


@pytest.mark.parametrize(
    ("_shape", "_batch", "_fits"),
    [
        ([None, 4], {"max_size": 8, "leading_axis": True}, True),
        ([1, 4], {"max_size": 1, "leading_axis": True}, True),
        ([1, 4], {"max_size": 8, "leading_axis": True}, False),
        ([8, 4], {"max_size": 8, "leading_axis": True}, False),
        ([4], {"max_size": 1, "leading_axis": False}, True),
        ([1, 4], {"max_size": 1, "leading_axis": False}, False),
    ],
)
def test_batch_axis_must_be_free_or_single(_shape, _batch, _fits):
    one = {"name": "x", "kind": "tensor", "datatype": "FP32", "shape": [4]}
    described = {"inputs": [one], "outputs": [one | {"name": "y"}], "batch": _batch}

    if _fits:
        check(graph(_shape), described)
    else:
        refuse(graph(_shape), described)


@pytest.mark.parametrize("_shape", [[None], [None, 1]])
def test_single_values_may_have_an_axis_or_not(_shape):
    described = {
        "inputs": [{"name": "x", "kind": "integer"}],
        "outputs": [{"name": "y", "kind": "integer"}],
        "batch": {"max_size": 4, "leading_axis": True},
    }

    check(graph(_shape, TensorProto.INT64), described)
    refuse(graph([None, 2], TensorProto.INT64), described)


def test_texts_are_strings():
    described = {
        "inputs": [{"name": "x", "kind": "text"}],
        "outputs": [{"name": "y", "kind": "text"}],
    }

    check(graph([None, 1], TensorProto.STRING), described)
    refuse(graph([None, 1], TensorProto.FLOAT), described)


def test_graph_has_no_stream():
    streamed = {"name": "text", "kind": "text", "stream": True}
    promised = interface(lambda i: (i["outputs"].append(streamed), i.update(batch={})))

    assert "it has no stream" in refuse(linear(), promised)
