"""Messages of the protocol's gRPC form, without any server."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from inference.gateway.config import MESSAGE_FIELDS_MAX
from inference.gateway.grpc_server import _Metadata, _Scope
from inference.gateway.protocols.oip_message import (
    parse,
    to_canonical,
    to_document,
    to_reference,
)
from inference.gateway.protocols.oip_request import read_tensors
from marketplace.core.errors import BadRequestError, InvalidInputError
from strongroom.interface import MAX_BATCH_SIZE, Interface
from tests.gateway.calls import make_request, raw, typed

Request = service_pb2.ModelInferRequest
_CONTENTS = {
    "BOOL": ("bool_contents", np.bool_, [True, False]),
    "INT8": ("int_contents", np.int8, [-(2**7), 2**7 - 1]),
    "INT16": ("int_contents", np.int16, [-(2**15), 2**15 - 1]),
    "INT32": ("int_contents", np.int32, [-(2**31), 2**31 - 1]),
    "INT64": ("int64_contents", np.int64, [-(2**63), 2**63 - 1]),
    "UINT8": ("uint_contents", np.uint8, [0, 2**8 - 1]),
    "UINT16": ("uint_contents", np.uint16, [0, 2**16 - 1]),
    "UINT32": ("uint_contents", np.uint32, [0, 2**32 - 1]),
    "UINT64": ("uint64_contents", np.uint64, [0, 2**64 - 1]),
    "FP32": ("fp32_contents", np.float32, [-0.0, float(np.float32(0.1))]),
    "FP64": ("fp64_contents", np.float64, [-0.0, 0.1]),
}


def pack(*tensors):
    document, octets = to_document(make_request(*tensors), is_streamed=False)
    return document["inputs"], octets


@pytest.mark.parametrize("_datatype", _CONTENTS)
def test_typed_values_become_the_octets_of_raw_ones(_datatype):
    member, kind, values = _CONTENTS[_datatype]
    array = np.array([values], kind)

    of_typed = pack(typed("t", _datatype, [1, 2], **{member: values}))
    of_raw = pack(raw("t", array, _datatype))

    assert of_typed[0] == of_raw[0]
    assert bytes(of_typed[1]) == bytes(of_raw[1]) == array.tobytes()
    tensor = {"name": "t", "kind": "tensor", "datatype": _datatype, "shape": [2]}
    interface = Interface.parse({"inputs": [tensor], "outputs": [tensor]})
    (read,) = read_tensors(interface, *of_typed)
    assert read.data.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("_datatype", "_value"),
    [
        ("INT8", 2**7),
        ("INT8", -(2**7) - 1),
        ("INT16", 2**15),
        ("INT16", -(2**15) - 1),
        ("UINT8", 2**8),
        ("UINT16", 2**16),
    ],
)
def test_value_that_its_datatype_does_not_have_is_refused(_datatype, _value):
    member, _, _ = _CONTENTS[_datatype]

    with pytest.raises(InvalidInputError, match=_datatype):
        pack(typed("t", _datatype, [1, 1], **{member: [_value]}))


def test_texts_have_a_number_that_a_batch_can_have():
    texts = [b"x"] * MAX_BATCH_SIZE

    _, octets = pack(typed("t", "BYTES", [len(texts), 1], bytes_contents=texts))
    assert bytes(octets[:10]) == b"\1\0\0\0x\1\0\0\0x"
    with pytest.raises(InvalidInputError, match=str(MAX_BATCH_SIZE)):
        pack(typed("t", "BYTES", [len(texts) + 1, 1], bytes_contents=[*texts, b"x"]))


def test_parameters_keep_their_kinds():
    kinds = {
        "bool": ({"bool_param": False}, False),
        "int": ({"int64_param": -1}, -1),
        "text": ({"string_param": ""}, ""),
        "double": ({"double_param": 0.5}, 0.5),
        "large": ({"uint64_param": 2**64 - 1}, 2**64 - 1),
        "none": ({}, None),
    }
    message = make_request(parameters={name: given for name, (given, _) in kinds.items()})

    document, _ = to_document(message, is_streamed=False)

    expected = {name: value for name, (_, value) in kinds.items()}
    assert document["parameters"] == expected | {"binary_data_output": True}
    assert [type(document["parameters"][name]) for name in expected] == [
        type(value) for value in expected.values()
    ]


def test_canonical_form_has_no_order_of_parameters():
    bodies = []
    for names in ("abcdefgh", "hgfedcba"):
        message = make_request()
        for name in names:
            message.parameters[name].string_param = name
        bodies.append(message.SerializeToString())

    assert to_canonical(bodies[0]) == to_canonical(bodies[1])
    assert Request.FromString(to_canonical(bodies[0])) == Request.FromString(bodies[0])


@pytest.mark.parametrize(
    "_field", [b"\x2a\x00", b"\x3a\x00", b"\x78\x01", b"\x79" + bytes(8), b"\x7d" + bytes(4)]
)
def test_fields_are_counted(_field):
    parse(Request, _field * MESSAGE_FIELDS_MAX)

    with pytest.raises(BadRequestError, match=str(MESSAGE_FIELDS_MAX)):
        parse(Request, _field * (MESSAGE_FIELDS_MAX + 1))


@pytest.mark.parametrize(
    "_body",
    [
        b"\x0a",
        b"\x0a\x01",
        b"\x80",
        b"\x80" * 10 + b"\x01",
        b"\x0b\x0c",
        b"\x79" + bytes(7),
        b"\x0a\x01\xff",
        b"\x2a\x01\x08",
    ],
)
def test_octets_that_are_no_message_are_refused(_body):
    with pytest.raises(BadRequestError, match="decoded"):
        parse(Request, _body)


@pytest.mark.parametrize(
    ("_name", "_version", "_reference"),
    [
        ("a/b", "", "a/b"),
        ("a/b", "1", "a/b:1"),
        ("a/b", ":1", "a/b:1"),
        ("a/b", "@staging", "a/b@staging"),
        ("a/b@staging", "", "a/b@staging"),
        ("a/b:1", "2", "a/b:1:2"),
    ],
)
def test_name_and_version_are_one_reference(_name, _version, _reference):
    assert to_reference(_name, _version) == _reference


@pytest.mark.parametrize(
    ("_peer", "_client"),
    [
        ("ipv4:127.0.0.1:80", "127.0.0.1:80"),
        ("ipv6:%5B::1%5D:80", "[::1]:80"),
        ("ipv6:[::1]:80", "[::1]:80"),
        ("unix:/run/x", ""),
        ("unix:", ""),
    ],
)
def test_peer_is_an_address(_peer, _client):
    assert _Scope.of_peer(_peer).client == _client


def test_metadata_is_read_as_headers_are():
    metadata = _Metadata([("one", "a"), ("two", "b"), ("one", "c"), ("three-bin", b"\0")])

    assert metadata.get("one") == "a"
    assert metadata.get_all("one") == ["a", "c"]
    assert ("two" in metadata, "three-bin" in metadata) == (True, False)
    assert (metadata.get("none"), metadata.get("none", "d"), metadata.get_all("none")) == (
        None,
        "d",
        [],
    )
