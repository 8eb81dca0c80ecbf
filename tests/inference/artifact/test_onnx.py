from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from inference.artifact import onnx as onnx_check
from inference.artifact import onnx_proto
from inference.artifact.errors import ArtifactError
from inference.artifact.onnx import parse_model
from tests.inference.artifact.onnx_models import (
    custom_op,
    external_tensor,
    linear,
    linear_with_external,
    model,
    value,
)


def refuse(data: bytes, **arguments: object) -> str:
    with pytest.raises(ArtifactError) as caught:
        parse_model(memoryview(data), **arguments)
    return caught.value.reason_code


def test_describes_a_graph():
    found = parse_model(memoryview(linear()))

    assert [(one.name, one.datatype, one.shape) for one in found.inputs] == [
        ("x", "FP32", (None, 16))
    ]
    assert [(one.name, one.datatype, one.shape) for one in found.outputs] == [
        ("y", "FP32", (None, 4))
    ]
    assert (found.node_count, found.parameter_count, found.opsets) == (1, 64, {"": 17})


def test_initializers_that_are_listed_as_inputs_are_no_inputs():
    data = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", [None, 2]), value("w", [2, 2])],
        [value("y", [None, 2])],
        [numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")],
    )

    assert [one.name for one in parse_model(memoryview(data)).inputs] == ["x"]


@pytest.mark.parametrize(
    "_array",
    [
        np.arange(3, dtype=np.float32),
        np.arange(3, dtype=np.float64),
        np.arange(3, dtype=np.float16),
        np.arange(3, dtype=np.int8),
        np.arange(300, 303, dtype=np.int32),
        np.array([-1, 0, 1], dtype=np.int64),
        np.array([True, False, True]),
        np.array(["a", "b", "c"], dtype=object),
        np.zeros((0, 4), dtype=np.float32),
    ],
    ids=lambda array: str(array.dtype),
)
@pytest.mark.parametrize("_raw", [True, False])
def test_every_way_to_store_a_tensor_is_counted(_array, _raw):
    if _array.dtype == object:
        tensor = helper.make_tensor("t", TensorProto.STRING, _array.shape, list(_array))
    elif _raw:
        tensor = numpy_helper.from_array(_array, "t")
    else:
        kind = helper.np_dtype_to_tensor_dtype(_array.dtype)
        tensor = helper.make_tensor("t", kind, _array.shape, _array.ravel().tolist())
    node = helper.make_node("Constant", [], ["y"], value=tensor)
    data = model([node], [], [value("y", list(_array.shape))], [tensor])

    assert parse_model(memoryview(data)).parameter_count == _array.size


def test_two_gigabytes_claimed_in_two_lines_are_refused():
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 15, 1 << 14])

    assert refuse(linear_with_external(tensor)) == "onnx_initializer_size"


def test_overflowing_dimensions_are_refused():
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 32, 1 << 32])
    tensor.raw_data = b""

    assert refuse(linear_with_external(tensor)) == "onnx_initializer_size"


def test_tensor_that_holds_its_data_twice_is_refused():
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), "w")
    tensor.float_data.extend([0.0, 0.0])

    assert refuse(linear_with_external(tensor)) == "onnx_initializer_size"


def test_constant_of_a_node_is_checked_like_an_initializer():
    tensor = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[1000])
    node = helper.make_node("Constant", [], ["y"], value=tensor)

    assert refuse(model([node], [], [value("y", [1000])])) == "onnx_initializer_size"


# --- Operators ---


def test_operator_of_another_library_is_refused():
    assert refuse(custom_op()) == "onnx_custom_op"


def test_operator_hidden_in_a_branch_is_refused():
    branch = helper.make_graph(
        [helper.make_node("EvilOp", [], ["b"], domain="evil.custom")], "b", [], [value("b", [1])]
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    data = model([node], [value("c", [1], TensorProto.BOOL)], [value("y", [1])])

    assert refuse(data) == "onnx_custom_op"


@pytest.mark.parametrize("_operator", sorted(onnx_check.REFUSED_OPERATORS))
def test_built_in_operator_that_reaches_out_is_refused(_operator):
    node = helper.make_node(_operator, ["x"], ["y"], domain="com.microsoft")

    assert refuse(model([node], [value("x", [1])], [value("y", [1])])) == "onnx_custom_op"


def test_local_function_is_accepted_and_its_body_checked():
    def function(body_domain: str):
        body = [helper.make_node("Relu", ["a"], ["b"], domain=body_domain)]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
        return helper.make_function("mine", "F", ["a"], ["b"], body, opsets)

    call = [helper.make_node("F", ["x"], ["y"], domain="mine")]
    ends = [value("x", [1])], [value("y", [1])]

    good = model(call, *ends, functions=[function("")])
    bad = model(call, *ends, functions=[function("evil.custom")])

    assert parse_model(memoryview(good)).node_count == 2
    assert refuse(bad) == "onnx_custom_op"


def functions_calling(*callees: list[str]) -> list[object]:
    """Function f0 calls what is listed first, and so on."""
    made = []
    for index, names in enumerate(callees):
        body = [helper.make_node(name, ["a"], ["b"], domain="mine") for name in names]
        body.append(helper.make_node("Relu", ["a"], ["b"]))
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
        made.append(helper.make_function("mine", f"f{index}", ["a"], ["b"], body, opsets))
    return made


def calling_f0(functions: list[object]) -> bytes:
    node = helper.make_node("f0", ["x"], ["y"], domain="mine")
    return model([node], [value("x", [1])], [value("y", [1])], functions=functions)


def test_functions_that_call_each_other_in_a_circle_are_refused():
    data = calling_f0(functions_calling(["f1"], ["f2"], ["f0"]))

    assert refuse(data) == "onnx_function_recursion"


def test_functions_that_unfold_into_billions_of_nodes_are_refused():
    doubling = [[f"f{i + 1}"] * 2 for i in range(40)]

    assert refuse(calling_f0(functions_calling(*doubling, []))) == "onnx_too_many_nodes"


def test_nested_graphs_have_a_limit():
    def nest(depth: int) -> object:
        node = helper.make_node("Relu", ["x"], ["b"])
        if depth:
            inner = nest(depth - 1)
            node = helper.make_node("If", ["c"], ["b"], then_branch=inner, else_branch=inner)
        return helper.make_graph([node], "b", [], [value("b", [1])])

    def outer(depth: int) -> bytes:
        inner = nest(depth)
        node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
        return model([node], [value("c", [1], TensorProto.BOOL)], [value("y", [1])])

    limit = onnx_check.MAX_GRAPH_DEPTH
    assert parse_model(memoryview(outer(3))).node_count == 31
    assert refuse(outer(limit)) == "onnx_too_deep"


def test_number_of_nodes_has_a_limit(monkeypatch):
    monkeypatch.setattr(onnx_check, "MAX_NODES", 2)
    nodes = [helper.make_node("Relu", ["x"], ["y"])] * 3
    ends = [value("x", [1])], [value("y", [1])]

    assert parse_model(memoryview(model(nodes[:2], *ends))).node_count == 2
    assert refuse(model(nodes, *ends)) == "onnx_too_many_nodes"


def test_a_file_of_crumbs_ends_early(monkeypatch):
    monkeypatch.setattr(onnx_proto, "MAX_FIELDS", 1000)
    empty_node = b"\x0a\x00"
    graph = empty_node * 2000
    data = b"\x3a" + bytes([len(graph) & 0x7F | 0x80, len(graph) >> 7]) + graph

    assert refuse(data) == "onnx_malformed"


# --- External data ---


def test_external_data_inside_a_member_is_accepted():
    tensor = external_tensor("w", [16, 4], location="w.bin", offset="8", length="256")

    found = parse_model(
        memoryview(linear_with_external(tensor)),
        path="sub/model.onnx",
        external_sizes={"sub/w.bin": 264},
    )

    assert found.external == {"w.bin": "sub/w.bin"}


_EXTERNAL = {
    "traversal": {"location": "../../../../etc/passwd"},
    "absolute": {"location": "/etc/passwd"},
    "not_a_member": {"location": "other.bin"},
    "no_location": {"offset": "0"},
    "into_the_folder_and_back": {"location": "a/../w.bin"},
    "offset_past_end": {"location": "w.bin", "offset": "4"},
    "negative_offset": {"location": "w.bin", "offset": "-4"},
    "length_differs": {"location": "w.bin", "length": "4"},
    "strange_digits": {"location": "w.bin", "offset": "²"},
    "unknown_entry": {"location": "w.bin", "basepath": "/"},
}


@pytest.mark.parametrize("_case", _EXTERNAL)
def test_external_data_elsewhere_is_refused(_case):
    data = linear_with_external(external_tensor("w", [16, 4], **_EXTERNAL[_case]))

    assert refuse(data, external_sizes={"w.bin": 256}) == "onnx_external_data"


def test_external_data_cannot_be_used_many_times():
    tensors = [external_tensor(f"w{i}", [16, 4], location="w.bin") for i in range(2)]
    data = model([], [], [], tensors)

    assert refuse(data, external_sizes={"w.bin": 256}) == "onnx_external_data"


def test_external_data_of_a_constant_is_refused():
    tensor = external_tensor("c", [64], location="w.bin")
    node = helper.make_node("Constant", [], ["y"], value=tensor)
    data = model([node], [], [value("y", [64])])

    assert refuse(data, external_sizes={"w.bin": 256}) == "onnx_external_data"


def test_data_location_that_only_names_a_file_is_refused():
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), "w")
    tensor.external_data.add(key="location", value="w.bin")

    assert refuse(linear_with_external(tensor)) == "onnx_external_data"


# --- The bytes ---


_MALFORMED = {
    "empty": b"",
    "no_graph": b"\x08\x0a",
    "cut_off": linear()[:-3],
    "two_graphs": linear() + linear(),
    "unknown_field": linear() + b"\xfa\x01\x00",
    "group": linear() + b"\x0b\x0c",
    "field_zero": linear() + b"\x02\x00",
    "long_varint": b"\x08" + b"\xff" * 10 + b"\x01",
    "wrong_wire_type": b"\x38\x01",
    "text_that_is_not_utf8": b"\x3a\x06\x0a\x04\x22\x02\xff\xfe",
}


@pytest.mark.parametrize("_case", _MALFORMED)
def test_bytes_with_another_meaning_for_another_parser_are_refused(_case):
    assert refuse(_MALFORMED[_case]) == "onnx_malformed"


@pytest.mark.parametrize(
    ("_field", "_reason_code"),
    [("training_info", "onnx_training_refused"), ("sparse", "onnx_sparse_refused")],
)
def test_parts_that_are_never_served_are_refused(_field, _reason_code):
    made = onnx.load_model_from_string(linear())
    if _field == "training_info":
        made.training_info.add()
    else:
        made.graph.sparse_initializer.add()

    assert refuse(made.SerializeToString()) == _reason_code


_TABLES = {
    "ModelProto": onnx_proto.MODEL,
    "OperatorSetIdProto": onnx_proto.OPERATOR_SET,
    "GraphProto": onnx_proto.GRAPH,
    "NodeProto": onnx_proto.NODE,
    "AttributeProto": onnx_proto.ATTRIBUTE,
    "TensorProto": onnx_proto.TENSOR,
    "StringStringEntryProto": onnx_proto.STRING_ENTRY,
    "ValueInfoProto": onnx_proto.VALUE_INFO,
    "TypeProto": onnx_proto.TYPE,
    "TypeProto.Tensor": onnx_proto.TENSOR_TYPE,
    "TensorShapeProto": onnx_proto.SHAPE,
    "TensorShapeProto.Dimension": onnx_proto.DIMENSION,
    "FunctionProto": onnx_proto.FUNCTION,
}
# FieldDescriptor.Type to the wire type of one value.
_WIRE_TYPES = {1: 1, 2: 5, 3: 0, 4: 0, 5: 0, 9: 2, 11: 2, 12: 2, 14: 0}


@pytest.mark.parametrize("_message", _TABLES)
def test_tables_are_those_of_the_format(_message):
    owner = onnx.onnx_ml_pb2
    for name in _message.split("."):
        owner = getattr(owner, name)
    table = _TABLES[_message]

    fields = {one.number: one for one in owner.DESCRIPTOR.fields}

    assert table.keys() == fields.keys()
    for number, rule in table.items():
        assert rule.name == fields[number].name
        assert _WIRE_TYPES[fields[number].type] in rule.wire_types
        if rule.treatment == onnx_proto.ONE:
            assert not fields[number].is_repeated


# --- The checks are what refuses ---


def test_without_the_list_of_domains_a_custom_operator_would_pass(monkeypatch):
    allowed = onnx_check.ALLOWED_DOMAINS | {"evil.custom"}
    monkeypatch.setattr(onnx_check, "ALLOWED_DOMAINS", allowed)

    assert parse_model(memoryview(custom_op())).node_count == 1


def test_without_the_check_of_locations_a_traversal_would_pass(monkeypatch):
    monkeypatch.setattr(onnx_check._Check, "check_external", lambda *_: None)
    tensor = external_tensor("w", [16, 4], location="../../etc/passwd")

    assert parse_model(memoryview(linear_with_external(tensor))).parameter_count == 64


# --- Two meanings, and numbers that wrap round ---


def test_initializers_of_one_name_are_refused():
    twice = [numpy_helper.from_array(np.full(2, one, np.float32), "w") for one in (1, 2)]

    assert refuse(model([], [], [], twice)) == "onnx_malformed"


def test_initializers_of_one_name_in_a_branch_are_refused():
    twice = [numpy_helper.from_array(np.full(2, one, np.float32), "w") for one in (1, 2)]
    branch = helper.make_graph([], "branch", [], [], twice)
    node = helper.make_node("If", ["c"], [], then_branch=branch, else_branch=branch)

    assert refuse(model([node], [], [])) == "onnx_malformed"


@pytest.mark.parametrize("version", [0, -1, onnx_check.MAX_OPSET + 1, 2**62])
def test_operator_sets_that_cannot_be_are_refused(version):
    made = onnx.load_model_from_string(linear())
    made.opset_import[0].version = version

    assert refuse(made.SerializeToString()) == "onnx_malformed"


def test_the_last_version_of_an_operator_set_is_read():
    made = onnx.load_model_from_string(linear())
    made.opset_import[0].version = onnx_check.MAX_OPSET

    assert parse_model(memoryview(made.SerializeToString())).opsets[""] == onnx_check.MAX_OPSET


@pytest.mark.parametrize("shape", [[2**62, 2**62, 0], [0, 2**62, 4], [2**63 - 1, 2, 0]])
def test_lengths_that_wrap_round_are_refused_also_beside_a_zero(shape):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=shape)

    assert refuse(model([], [], [], [tensor])) == "onnx_initializer_size"


def test_an_empty_tensor_is_accepted():
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**62, 0])

    assert parse_model(memoryview(model([], [], [], [tensor]))).parameter_count == 0


@pytest.mark.parametrize(
    "location",
    [
        "",
        ".",
        "./",
        "w.bin\x00",
        "w.bin\n",
        " w.bin",
        "W.BIN",
        "..",
        "sub/../w.bin",
        "w..bin",
        "\\w.bin",
        "C:\\w.bin",
        "file:///w.bin",
        "//w.bin",
        "/proc/self/fd/3",
        "/dev/shm/w.bin",
        "w\u0131n.bin",
    ],
)
def test_locations_that_some_reader_would_follow_elsewhere_are_refused(location):
    """Also links: only names of the manifest are known, and no file system is asked."""
    data = linear_with_external(external_tensor("w", [16, 4], location=location))

    assert refuse(data, external_sizes={"w.bin": 256}) == "onnx_external_data"
