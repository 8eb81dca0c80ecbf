"""Whatever an inference request of /v2 says of its tensors fits the interface or is refused."""

from __future__ import annotations

import json
import math
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, find, given
from hypothesis import strategies as st

from inference.gateway.http import parse_json
from inference.gateway.protocols import native, oip_request
from inference.gateway.protocols.oip_request import (
    LENGTH_HEADER,
    choose_outputs,
    read_document,
    read_json_length,
    read_tensors,
)
from inference.triton.tensors import NUMPY_TYPES, Tensor, unpack
from strongroom.errors import InputError, InterfaceError
from strongroom.interface import MAX_TENSOR_ELEMENTS, RANGES, Input, Interface
from tests.gateway.hostile import (
    INTEGERS,
    JSON,
    NUMBERS,
    SCALARS,
    TEXTS,
    Refused,
    fuzz,
    mostly,
    objects,
    search,
    try_out,
)

MIB = 1024 * 1024
INTERFACE = Interface.parse(
    {
        "inputs": [
            {
                "name": "x",
                "kind": "tensor",
                "datatype": "FP32",
                "shape": [2],
                "minimum": -5,
                "maximum": 100,
            },
            {
                "name": "grid",
                "kind": "tensor",
                "datatype": "INT64",
                "shape": [-1, -1],
                "default": [[0]],
            },
            {
                "name": "wild",
                "kind": "tensor",
                "datatype": "FP64",
                "shape": [-1],
                "allow_nan": True,
                "default": [0],
            },
            {
                "name": "flags",
                "kind": "tensor",
                "datatype": "BOOL",
                "shape": [2],
                "default": [True, False],
            },
            {"name": "note", "kind": "text", "max_length": 5, "default": ""},
            {"name": "count", "kind": "integer", "datatype": "INT32", "default": 0},
        ],
        "outputs": [{"name": "y", "kind": "tensor", "datatype": "FP32", "shape": [-1]}],
        "batch": {"max_size": 4},
    }
)
NAMES = [one.name for one in INTERFACE.inputs]
LENGTHS = mostly(st.integers(-1, 5), INTEGERS)
SIZES = mostly(st.integers(-8, 64), INTEGERS)
PARAMETERS = st.one_of(
    st.builds(lambda size: {"binary_data_size": size}, SIZES),
    st.dictionaries(
        st.one_of(
            TEXTS,
            st.sampled_from(
                [*oip_request._UNSUPPORTED, "triton_x", "binary_data_size", "priority"]
            ),
        ),
        SCALARS,
        max_size=2,
    ),
    JSON,
)


def values_of(one: Input) -> Any:
    """Values that an input takes, most of the time."""
    if one.datatype == "BYTES":
        return mostly(st.text(max_size=5), TEXTS)
    if one.datatype == "BOOL":
        return mostly(st.booleans(), SCALARS)
    return mostly(st.integers(-5, 100), NUMBERS)


@st.composite
def tensors_of(draw: Any, name: str, rows: int) -> Any:
    """A tensor for an input, right but for some member of it."""
    one = INTERFACE.inputs_by_name[name]
    lengths = [draw(st.integers(1, 2)) if length == -1 else length for length in one.wire_shape]
    shape = [rows, *lengths]
    count = math.prod(shape)
    right = {
        "name": name,
        "shape": shape,
        "datatype": one.datatype,
        "data": draw(st.lists(values_of(one), min_size=count, max_size=count)),
    }
    if draw(st.integers(0, 3)):
        return right
    wrong = draw(
        objects(
            {},
            {
                "name": JSON,
                "shape": mostly(st.lists(LENGTHS, max_size=4)),
                "datatype": mostly(st.sampled_from([*NUMPY_TYPES])),
                "data": mostly(st.lists(mostly(values_of(one)), max_size=6)),
                "parameters": mostly(PARAMETERS),
            },
        )
    )
    return {**right, **wrong}


@st.composite
def tensor_lists(draw: Any) -> Any:
    rows = draw(mostly(st.integers(1, 3), st.integers(0, 5)))
    more = draw(st.lists(st.sampled_from(NAMES[1:]), max_size=2, unique=True))
    names = draw(mostly(st.just(["x", *more]), st.lists(st.sampled_from(NAMES), max_size=3)))
    return [draw(tensors_of(name, rows)) for name in names]


DOCUMENTS = objects(
    {"inputs": mostly(tensor_lists())},
    {
        "id": mostly(TEXTS),
        "parameters": PARAMETERS,
        "outputs": mostly(
            st.lists(
                objects({"name": mostly(st.just("y"))}, {"parameters": PARAMETERS}), max_size=2
            )
        ),
    },
)


def read(interface: Interface, body: bytes, json_bytes: int | None) -> list[Tensor]:
    """The way of a request to its tensors, as the protocol goes it."""
    headers = {} if json_bytes is None else {LENGTH_HEADER: str(json_bytes)}
    length = read_json_length(headers, len(body))
    document = read_document(parse_json(body[:length]))
    choose_outputs(interface, document)
    octets = None if length is None else memoryview(body)[length:]
    return read_tensors(interface, document["inputs"], octets)


def check_tensors(interface: Interface, tensors: list[Tensor]) -> None:
    """What goes to Triton is what the interface promises it, to the byte."""
    assert [one.name for one in tensors] == [one.name for one in interface.inputs]
    rows = tensors[0].shape[0]
    assert 1 <= rows <= interface.batch.max_size
    for one, described in zip(tensors, interface.inputs, strict=True):
        assert one.datatype == described.datatype
        assert one.shape == one.data.shape
        assert one.shape[0] == rows
        assert len(one.shape) == len(described.wire_shape) + 1
        for length, wanted in zip(one.shape[1:], described.wire_shape, strict=True):
            assert length == wanted or (wanted == -1 and length >= 1)
        again = unpack(one.datatype, one.shape, one.to_bytes())
        assert again.tobytes() == one.data.tobytes() or one.datatype == "BYTES"
        check_values(described, one)


def check_values(described: Any, one: Tensor) -> None:
    """Each row, taken alone, is what /v1 would have taken."""
    alone = Interface((described,), ())
    for row in one.data:
        value = row.tolist() if described.shape else row.tolist()[0]
        if described.datatype == "BYTES":
            value = value.decode()
        alone.check_input({described.name: value})


def body_of(document: Any, octets: bytes = b"") -> tuple[bytes, int]:
    part = json.dumps(document).encode()
    return part + octets, len(part)


def tensor(name="x", shape=(1, 2), datatype="FP32", **members):
    return {"name": name, "shape": list(shape), "datatype": datatype, **members}


def sized(size, **members):
    return tensor(parameters={"binary_data_size": size}, **members)


HUGE = [2**31, 2**33]


@fuzz
@given(DOCUMENTS, st.binary(max_size=64), st.booleans())
@example({"inputs": [sized(8), sized(8)]}, bytes(8), True)
@example({"inputs": [sized(8), sized(-8, name="wild"), sized(8, name="grid")]}, bytes(16), True)
@example({"inputs": [sized(2**64 - 1)]}, bytes(8), True)
@example({"inputs": [sized(8, name="grid", shape=[1, *HUGE], datatype="INT64")]}, bytes(8), True)
@example({"inputs": [tensor(shape=[4, 2**62], data=[1])]}, b"", False)
@example({"inputs": [tensor(shape=[1, 2**64], data=[1])]}, b"", False)
@example({"inputs": [tensor("grid", [2**32, 2**32, 1], "INT64", data=[])]}, b"", False)
@example({"inputs": [tensor(shape=[True, 2], data=[1, 2])]}, b"", False)
@example({"inputs": [tensor(data=[1, 2], parameters={"shared_memory_region": "r"})]}, b"", False)
@example({"inputs": [sized(4, name="note", shape=[1, 1], datatype="BYTES")]}, b"\xff" * 4, True)
@example({"inputs": [tensor("wild", [1, 1], "FP64", data=[float("nan")])]}, b"", False)
@example({"inputs": [tensor("grid", [1, 1, 1], "INT64", data=[10**400])]}, b"", False)
def test_tensors_fit_the_interface_or_are_refused(document, octets, has_header):
    body, json_bytes = body_of(document, octets)

    tensors = try_out(lambda: read(INTERFACE, body, json_bytes if has_header else None))

    if not isinstance(tensors, Refused):
        check_tensors(INTERFACE, tensors)


@fuzz
@given(st.data())
def test_octets_that_are_cut_or_shifted_are_refused(data):
    right = [
        sized(16, shape=[2, 2]),
        sized(16, name="grid", shape=[2, 1, 1], datatype="INT64"),
        sized(10, name="note", shape=[2, 1], datatype="BYTES"),
    ]
    octets = struct.pack("<4f2q", 1, 2, 3, 4, 5, 6) + struct.pack("<I1sI1s", 1, b"a", 1, b"b")
    body, json_bytes = body_of({"inputs": right}, octets)
    check_tensors(INTERFACE, read(INTERFACE, body, json_bytes))

    cut = data.draw(st.integers(1, len(octets)))
    more = data.draw(st.binary(min_size=1, max_size=9))
    for wrong in (body[:-cut], body + more):
        assert isinstance(try_out(lambda wrong=wrong: read(INTERFACE, wrong, json_bytes)), Refused)
    at = data.draw(st.integers(0, len(body) + 2))
    if at != json_bytes:
        assert isinstance(try_out(lambda: read(INTERFACE, body, at)), Refused)


@fuzz
@given(st.data())
def test_sizes_that_do_not_add_up_are_refused(data):
    sizes = data.draw(st.tuples(SIZES, SIZES))
    octets = struct.pack("<2fq", 1, 2, 3)
    body, json_bytes = body_of(
        {
            "inputs": [
                sized(sizes[0]),
                sized(sizes[1], name="grid", shape=[1, 1, 1], datatype="INT64"),
            ]
        },
        octets,
    )

    tensors = try_out(lambda: read(INTERFACE, body, json_bytes))

    assert isinstance(tensors, Refused) == (sizes != (8, 8))


@pytest.mark.parametrize(
    "_tensor",
    [
        tensor("grid", [1, 4096, 4096], "INT64", data=[0]),
        tensor("grid", [4, 4096, 4096], "INT64", data=[0]),
        tensor("grid", [4, 4096, 4096], "INT64", data=[[[0]]]),
        sized(8, name="grid", shape=[4, 4096, 4096], datatype="INT64"),
        sized(0, name="wild", shape=[4, MAX_TENSOR_ELEMENTS], datatype="FP64"),
        tensor("wild", [1, MAX_TENSOR_ELEMENTS + 1], "FP64", data=[0]),
        tensor("wild", [2**62, 2**62], "FP64", data=[0]),
    ],
)
def test_shape_alone_costs_no_memory(_tensor):
    has_octets = "parameters" in _tensor
    body, json_bytes = body_of({"inputs": [tensor(data=[1, 2]), _tensor]}, bytes(8 * has_octets))
    tracemalloc.start()
    try:
        found = try_out(lambda: read(INTERFACE, body, json_bytes if has_octets else None))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert isinstance(found, Refused)
    assert peak_bytes < MIB


# --- The interface's own checks, which all protocols share ---

DESCRIBED = st.fixed_dictionaries(
    {
        "name": mostly(st.sampled_from(["a", "b"])),
        "kind": mostly(
            st.sampled_from(["text", "number", "integer", "boolean", "choice", "tensor"])
        ),
    },
    optional={
        "datatype": mostly(st.sampled_from([*RANGES, "BOOL", "BYTES"])),
        "shape": mostly(st.lists(LENGTHS, max_size=3)),
        "default": JSON,
        "example": JSON,
        "required": mostly(st.booleans()),
        "minimum": mostly(NUMBERS),
        "maximum": mostly(NUMBERS),
        "max_length": mostly(INTEGERS),
        "choices": mostly(st.lists(TEXTS, max_size=3)),
        "allow_nan": mostly(st.booleans()),
        "description": mostly(TEXTS),
    },
)
LABELS = st.fixed_dictionaries(
    {"name": mostly(st.just("l")), "kind": st.just("label"), "source": mostly(st.just("y"))},
    optional={"labels": mostly(st.lists(TEXTS, max_size=3)), "top": mostly(INTEGERS)},
)
OUTPUT = {"name": "y", "kind": "tensor", "datatype": "FP32", "shape": [2]}


def raise_it(error):
    raise error


@fuzz
@given(
    objects(
        {
            "inputs": mostly(st.lists(DESCRIBED, min_size=1, max_size=2)),
            "outputs": mostly(st.lists(st.one_of(st.just(OUTPUT), LABELS), min_size=1, max_size=3)),
        },
        {
            "batch": mostly(
                objects(
                    {"max_size": mostly(INTEGERS)},
                    {"leading_axis": mostly(st.booleans()), "coalesce": mostly(st.booleans())},
                )
            )
        },
    ),
    JSON,
)
def test_interface_is_read_and_written_the_same_or_refused(description, value):
    try:
        interface = Interface.parse(description)
    except InterfaceError:
        return
    assert Interface.parse(interface.to_json()) == interface
    # Whatever somebody sends to such a model is checked as well.
    names = [one.name for one in interface.inputs]
    for values in (value, dict.fromkeys(names, value)):
        try:
            checked = interface.check_input(values)
        except InputError as error:
            refusal = native.refuse_input(error.errors)
            assert isinstance(try_out(lambda: raise_it(refusal)), Refused)  # noqa: B023
        else:
            assert list(checked) == names


@fuzz
@given(st.sampled_from([*NUMPY_TYPES]), st.lists(JSON, max_size=3), st.binary(max_size=40))
@example("FP32", [0, 2**63], b"")
@example("FP32", [0, 2**64 - 1], b"")
@example("FP32", [0, 0, 0, 2**40, 2**40], b"")
def test_octets_fill_their_shape_or_are_refused(datatype, shape, octets):
    if any(type(length) is not int for length in shape):
        return
    array = try_out(lambda: unpack(datatype, shape, octets))

    assert isinstance(array, Refused) or list(array.shape) == shape


# --- The checks above notice ---


def test_some_documents_are_taken():
    """Were all refused, nothing would have been checked."""

    def is_taken(document):
        body, _ = body_of(document)
        given = try_out(lambda: read(INTERFACE, body, None))
        return not isinstance(given, Refused) and len(document["inputs"]) > 1

    assert find(DOCUMENTS, is_taken, settings=search)


def test_a_reader_that_believes_every_length_is_noticed(monkeypatch):
    """Sizes that lead beyond the body, or leave some of it over, come through without these."""
    monkeypatch.setattr(oip_request._OctetReader, "finish", lambda self: None)

    with pytest.raises(AssertionError):
        test_octets_that_are_cut_or_shifted_are_refused()


def test_a_reader_that_checks_no_values_is_noticed(monkeypatch):
    monkeypatch.setattr(oip_request, "_find_unfit", lambda one, array: None)
    body, json_bytes = body_of({"inputs": [sized(8)]}, struct.pack("<2f", 1, 1e30))

    tensors = read(INTERFACE, body, json_bytes)
    with pytest.raises(InputError):
        check_tensors(INTERFACE, tensors)
