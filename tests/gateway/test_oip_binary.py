"""/v2 with octets behind the JSON: what is read, what is refused, what is answered."""

from __future__ import annotations

import contextlib
import json
import math
import struct
import tracemalloc
import zlib

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tritonclient.http import InferResult

from billing.models import LedgerAccount, UsageEvent
from inference.gateway.compression import inflate
from inference.gateway.http import parse_json
from inference.gateway.protocols.oip_answer import InferAnswer, render_answer
from inference.gateway.protocols.oip_request import (
    choose_outputs,
    read_document,
    read_json_length,
    read_tensors,
)
from inference.triton.errors import OutputError
from inference.triton.tensors import NUMPY_TYPES, pack
from marketplace.core.errors import InvalidInputError, MarketplaceError, PayloadTooLargeError
from strongroom.interface import Interface
from tests.gateway.conftest import PRICE_NANOS, X, check_ledger, check_untouched

HEADER = "inference-header-content-length"
PATH = "/v2/models/maker/echo/infer"
MIB = 1024 * 1024
WINDOW_BITS = {"gzip": 31, "deflate": 15}
OUTPUT = {"name": "y", "kind": "tensor", "datatype": "FP32", "shape": [-1]}
NUMBERS = [name for name in NUMPY_TYPES if name != "BYTES"]


def interface_of(*inputs, outputs=(OUTPUT,), max_size=4):
    return Interface.parse(
        {"inputs": list(inputs), "outputs": list(outputs), "batch": {"max_size": max_size}}
    )


def tensor_input(name="x", shape=(4,), datatype="FP32", **members):
    return {"name": name, "kind": "tensor", "datatype": datatype, "shape": list(shape)} | members


MANY = interface_of(
    tensor_input(minimum=-10, maximum=100),
    tensor_input("flags", (2,), "BOOL", default=[False, False]),
    tensor_input("grid", (-1, -1), "INT16", default=[[0]]),
    {"name": "note", "kind": "text", "default": "", "max_length": 5},
    {"name": "mode", "kind": "choice", "choices": ["ok", "größer"], "default": "ok"},
    {"name": "count", "kind": "integer", "default": 0, "maximum": 2**62 + 1},
    {"name": "heat", "kind": "number", "default": 0, "minimum": 0},
    {"name": "loud", "kind": "boolean", "default": False},
)


def octets_of(datatype, values):
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(one)) + one for one in values)
    return np.array(values, dtype=NUMPY_TYPES[datatype]).tobytes()


def binary(name="x", shape=(1, 4), datatype="FP32", data=(1, 2, 3, 4), size=None, **members):
    """An input's JSON and its octets; `size` is what it claims."""
    octets = data if isinstance(data, bytes) else octets_of(datatype, data)
    parameters = {"binary_data_size": len(octets) if size is None else size}
    head = {"name": name, "shape": list(shape), "datatype": datatype, "parameters": parameters}
    return head | members, octets


def body_of(*given, **members):
    """A whole body and where its JSON ends; inputs are pairs of JSON and octets."""
    part = json.dumps({"inputs": [head for head, _ in given], **members}).encode()
    return b"".join([part, *(octets for _, octets in given)]), len(part)


def read(interface, body, json_bytes):
    """A request's way to its tensors, without a server."""
    headers = {} if json_bytes is None else {HEADER: str(json_bytes)}
    length = read_json_length(headers, len(body))
    document = read_document(parse_json(body[:length]))
    wanted = choose_outputs(interface, document)
    octets = None if length is None else memoryview(body)[length:]
    return wanted, read_tensors(interface, document["inputs"], octets)


@contextlib.contextmanager
def traced_peak():
    """Yields what tells the most memory that was in use at once inside the block."""
    tracemalloc.start()
    try:
        yield lambda: peak_bytes
    finally:
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


def read_inputs(interface, *given):
    _, tensors = read(interface, *body_of(*given))
    return {one.name: one for one in tensors}


def refusal(interface, *given, **members):
    with pytest.raises(InvalidInputError) as caught:
        read(interface, *body_of(*given, **members))
    return caught.value.detail


# --- What is read ---


@given(st.data(), st.sampled_from(NUMBERS), st.integers(1, 4), st.integers(1, 6))
def test_numbers_arrive_to_the_bit(data, datatype, rows, width):
    element = {"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else {}
    array = data.draw(arrays(NUMPY_TYPES[datatype], (rows, width), elements=element))
    interface = interface_of(tensor_input(shape=(-1,), datatype=datatype))

    made = read_inputs(interface, binary("x", array.shape, datatype, array.tobytes()))["x"]

    assert (made.datatype, made.shape) == (datatype, array.shape)
    assert made.data.dtype == array.dtype
    assert made.to_bytes() == array.tobytes()


def test_numbers_are_neither_copied_nor_made_a_list():
    body, json_bytes = body_of(binary(shape=(1, MIB // 4), data=bytes(MIB)))
    interface = interface_of(tensor_input(shape=(-1,), minimum=-1, maximum=1))

    with traced_peak() as peak:
        _, (made,) = read(interface, body, json_bytes)

    assert np.shares_memory(made.data, np.frombuffer(body, dtype=np.uint8))
    # A list alone would be 8 bytes a number.
    assert peak() < MIB


@given(st.lists(st.text(max_size=5), min_size=1, max_size=4))
def test_texts_arrive_to_the_byte(texts):
    octets = [one.encode() for one in texts]
    interface = interface_of({"name": "note", "kind": "text", "max_length": 5})

    made = read_inputs(interface, binary("note", (len(texts), 1), "BYTES", octets))["note"]

    assert made.data.ravel().tolist() == octets


def test_octets_and_json_mix_in_the_order_of_the_request():
    given = [
        binary("mode", (2, 1), "BYTES", ["größer".encode(), b"ok"]),
        ({"name": "count", "shape": [2, 1], "datatype": "INT64", "data": [7, 8]}, b""),
        binary("x", (2, 4), data=range(8)),
        binary("loud", (2, 1), "BOOL", b"\1\0"),
        binary("grid", (2, 1, 3), "INT16", range(6)),
    ]

    made = read_inputs(MANY, *given)

    assert list(made) == [one.name for one in MANY.inputs]
    assert {name: one.data.tolist() for name, one in made.items()} == {
        "x": [[0, 1, 2, 3], [4, 5, 6, 7]],
        "flags": [[False, False]] * 2,
        "grid": [[[0, 1, 2]], [[3, 4, 5]]],
        "note": [[b""], [b""]],
        "mode": [["größer".encode()], [b"ok"]],
        "count": [[7], [8]],
        "heat": [[0], [0]],
        "loud": [[True], [False]],
    }


def test_header_without_octets_is_json_only():
    head = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": X}

    assert read_inputs(MANY, (head, b""))["x"].data.tolist() == [X]


# --- Both ways are equally strict ---

LIMITS = st.sampled_from([0, 1, -1, 2**53, 2**53 + 1, 2**62 + 1, 2**63 - 1, 0.1, 0.5, 1e-45])


@settings(deadline=None)
@given(
    st.data(),
    st.sampled_from(NUMBERS),
    st.one_of(st.none(), LIMITS),
    st.one_of(st.none(), LIMITS),
    st.booleans(),
)
def test_octets_are_refused_for_what_json_is_refused_for(data, datatype, low, high, allow_nan):
    if low is not None and high is not None and low > high:
        low, high = high, low
    one = tensor_input(shape=(-1,), datatype=datatype)
    one |= {"minimum": low} if low is not None else {}
    one |= {"maximum": high} if high is not None else {}
    interface = interface_of(one | {"allow_nan": allow_nan})
    dtype = np.dtype(NUMPY_TYPES[datatype])
    near = [int(limit) for limit in (low, high) if limit is not None]
    close = st.sampled_from([0, *(limit + step for limit in near for step in (-1, 0, 1))])
    fits = close if dtype.kind == "f" else close.filter(lambda one: _is_in(dtype, one))
    elements = st.one_of(st.just(0), fits).map(lambda value: np.array(value).astype(dtype)[()])
    if data.draw(st.booleans()):
        elements = None
    array = data.draw(arrays(dtype, (1, data.draw(st.integers(1, 6))), elements=elements))
    as_json = {"name": "x", "shape": list(array.shape), "datatype": datatype}

    def verdict(*pair):
        try:
            return read_inputs(interface, pair)["x"].data
        except InvalidInputError as error:
            return error.detail

    # As JSON, so that NaN is written as our parser takes it.
    text = json.dumps({"inputs": [as_json | {"data": array[0].tolist()}]}).encode()
    try:
        _, (made,) = read(interface, text, None)
        expected = made.data
    except InvalidInputError as error:
        expected = error.detail
    got = verdict(*binary("x", array.shape, datatype, array.tobytes()))

    if isinstance(expected, str):
        assert got == expected
    else:
        np.testing.assert_array_equal(got, expected, strict=True)


def _is_in(dtype, value):
    return dtype.kind == "b" or np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


SIGNALLING_NAN = struct.pack("<I", 0x7FA00000)


@pytest.mark.parametrize(
    ("_given", "_detail"),
    [
        (binary(data=[1, 2, 3, 100.5]), "Input 'x', row 0, at 3: Must be at most 100."),
        (
            binary("x", (2, 4), data=[0, 0, 0, 0, 0, -11, 0, 0]),
            "Input 'x', row 1, at 1: Must be at least -10.",
        ),
        (binary(data=[1, math.nan, 3, 4]), "Input 'x', row 0, at 1: Must be a finite number."),
        (binary(data=[1, 2, math.inf, 4]), "Input 'x', row 0, at 2: Must be a finite number."),
        (binary(data=[-math.inf, 2, 3, 4]), "Input 'x', row 0, at 0: Must be a finite number."),
        (
            binary(data=bytes(8) + SIGNALLING_NAN + bytes(4)),
            "Input 'x', row 0, at 2: Must be a finite number.",
        ),
        (
            binary("count", (1, 1), "INT64", [2**62 + 2]),
            f"Input 'count', row 0: Must be at most {2**62 + 1}.",
        ),
        (binary("heat", (1, 1), "FP32", [-1e-45]), "Input 'heat', row 0: Must be at least 0."),
        (binary("heat", (1, 1), "FP32", [math.nan]), "Input 'heat', row 0: Must be a finite"),
        (binary("loud", (1, 1), "BOOL", b"\2"), "Input 'loud': a boolean is 0 or 1."),
        (binary("flags", (1, 2), "BOOL", b"\1\xff"), "Input 'flags': a boolean is 0 or 1."),
        (
            binary("note", (2, 1), "BYTES", [b"short", b"longer"]),
            "Input 'note', row 1: Has 6 characters; 5 are allowed.",
        ),
        (binary("note", (1, 1), "BYTES", [b"\xff"]), "Input 'note', row 0: Is not UTF-8."),
        (binary("note", (1, 1), "BYTES", [b"\xed\xa0\x80"]), "Input 'note', row 0: Is not UTF-8."),
        (binary("mode", (1, 1), "BYTES", [b"other"]), "Input 'mode', row 0: Must be one of"),
    ],
)
def test_value_that_does_not_fit_is_named(_given, _detail):
    rows = _given[0]["shape"][0]
    x = binary("x", (rows, 4), data=[0] * 4 * rows)
    given = [_given] if _given[0]["name"] == "x" else [x, _given]

    assert refusal(MANY, *given).startswith(_detail)


def test_nan_is_taken_where_the_interface_asks_for_it():
    interface = interface_of(tensor_input(allow_nan=True, maximum=5))

    made = read_inputs(interface, binary(data=[math.nan, math.inf, -math.inf, 5]))["x"]

    assert np.isnan(made.data[0, 0])
    assert refusal(interface, binary(data=[math.nan, 1, 6, 2])).endswith("at 2: Must be at most 5.")


# --- What is refused ---


@pytest.mark.parametrize(
    "_text",
    [
        "0",
        "-1",
        "+5",
        " 5",
        "5 ",
        "1_0",
        "0x10",
        "5.0",
        "",
        "ten",
        "\u0665",
        "9" * 19,
        "9" * 5000,
        None,
    ],
)
def test_length_that_is_none_is_refused(_text):
    with pytest.raises(InvalidInputError, match="Inference-Header-Content-Length"):
        read_json_length({HEADER: _text}, 100)


def test_length_at_the_end_of_the_body_is_the_last():
    assert read_json_length({HEADER: "100"}, 100) == 100
    with pytest.raises(InvalidInputError):
        read_json_length({HEADER: "101"}, 100)
    assert read_json_length({}, 100) is None


@pytest.mark.parametrize("_step", [-1, 1])
def test_length_that_misses_the_end_of_the_json_is_refused(_step):
    body, json_bytes = body_of(binary())

    with pytest.raises(MarketplaceError) as caught:
        read(MANY, body, json_bytes + _step)

    assert caught.value.http_status == 400


@pytest.mark.parametrize(
    ("_given", "_word"),
    [
        ([binary(size=17)], "beyond the end"),
        ([binary(size=2**62)], "beyond the end"),
        ([binary(size=2**70)], "number of bytes"),
        ([binary(size=-1)], "number of bytes"),
        ([binary(size="16")], "number of bytes"),
        ([binary(size=16.0)], "number of bytes"),
        ([binary(size=True)], "number of bytes"),
        ([binary(size=15)], "no whole number of elements"),
        ([binary(size=12)], "3 elements do not fill the shape [1, 4]"),
        ([binary(size=0)], "0 elements do not fill"),
        ([binary(data=b"", size=0)], "0 elements do not fill"),
        ([(binary()[0], binary()[1] + b"\0")], "more bytes"),
        ([binary("x", (1, 4), data=bytes(20))], "5 elements"),
        # The second one claims what the first has taken.
        ([binary(size=20), binary("heat", (1, 1), data=[1])], "5 elements"),
        ([(binary()[0], b""), binary("heat", (1, 1), data=[1])], "beyond the end"),
        ([binary(data=list(X), size=16, shape=[1 << 62, 4])], "1 to 4"),
        ([binary("x", (-1, 4))], "[-1, 4]"),
        ([binary("x", (0, 4), data=b"")], "[-1, 4]"),
        ([binary("x", (1, -4))], "[-1, 4]"),
        ([binary("x", (4,))], "[-1, 4]"),
        ([binary("x", (2, 2))], "[-1, 4]"),
        ([binary("grid", (1, 2**31, 2**33), "INT16", b"")], "16777216 values"),
        ([binary("grid", (1, 2**64, 2**64), "INT16", b"")], "[-1, -1, -1]"),
        ([binary("grid", (1, 4096, 4096), "INT16", b"\0\0")], "1 elements do not fill"),
        ([binary("grid", (1, 4096, 4097), "INT16", b"\0\0")], "16777216 values"),
        ([binary(), binary()], "twice"),
        ([binary(), ({"name": "x", "shape": [1, 4], "datatype": "FP32", "data": X}, b"")], "twice"),
        ([binary(data=X, data_=1)], "unknown member"),
        ([(binary()[0] | {"data": X}, binary()[1])], "send one of them"),
        ([binary(), binary("heat", (2, 1), data=[1, 2])], "2 rows, not 1"),
        ([binary("x", (1, 4), "FP64")], "FP32"),
        ([binary("note", (1, 1), "BYTES", b"\1\0\0")], "1 texts"),
        ([binary("note", (1, 1), "BYTES", b"\5\0\0\0abcd")], "1 texts"),
        ([binary("note", (1, 1), "BYTES", b"\xff\xff\xff\xffabcd")], "1 texts"),
        ([binary("note", (1, 1), "BYTES", [b"a", b"b"])], "1 texts"),
        ([binary("note", (2, 1), "BYTES", [b"a"])], "2 texts"),
        ([binary("note", (1, 1), "BYTES", b"")], "1 texts"),
        ([binary("heat", (1, 1), data=[1])], "'x'"),
    ],
)
def test_octets_that_do_not_add_up_are_refused(_given, _word):
    assert _word in refusal(MANY, *_given)


def test_many_empty_texts_are_not_unpacked():
    # 10 MiB of empty texts would be 2.6 million objects.
    body, json_bytes = body_of(binary("note", (1, 1), "BYTES", bytes(10 * MIB)))

    with traced_peak() as peak, pytest.raises(InvalidInputError, match="1 texts"):
        read(MANY, body, json_bytes)

    assert peak() < MIB


def test_octets_without_the_header_are_refused():
    body = orjson.dumps({"inputs": [binary()[0]]})

    with pytest.raises(InvalidInputError, match=r"binary_data_size.*content-length"):
        read(MANY, body, None)


@pytest.mark.parametrize(
    ("_parameters", "_word"),
    [
        ({"shared_memory_region": "r"}, "shared_memory_region"),
        ({"shared_memory_region": ""}, "shared_memory_region"),
        ({"shared_memory_byte_size": 16}, "shared_memory_byte_size"),
        ({"shared_memory_offset": 0}, "shared_memory_offset"),
        ({"classification": 2}, "classification"),
        ({"triton_final_response": True}, "triton_final_response"),
        ({"other": None}, "other"),
        ({"other": [1]}, "other"),
        ({"other": {}}, "other"),
        ([], "object"),
        ("binary_data", "object"),
    ],
)
def test_parameters_that_mean_something_else_are_refused_everywhere(_parameters, _word):
    given = binary()
    on_output = {"outputs": [{"name": "y", "parameters": _parameters}]}

    if isinstance(_parameters, dict):
        own = given[0]["parameters"] | _parameters
        assert _word in refusal(MANY, (given[0] | {"parameters": own}, given[1]))
    assert _word in refusal(MANY, given, **on_output)
    assert _word in refusal(MANY, given, parameters=_parameters)


@pytest.mark.parametrize(
    ("_members", "_word"),
    [
        ({"parameters": {"binary_data_output": 1}}, "binary_data_output must be true or false"),
        ({"parameters": {"binary_data_output": "true"}}, "binary_data_output must be"),
        ({"parameters": {"binary_data_size": 16}}, "Only an input"),
        ({"parameters": {"sequence_id": 3}}, "sequence_id"),
        ({"outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, "binary_data must be"),
        ({"outputs": [{"name": "y", "parameters": {"binary_data_size": 8}}]}, "Only an input"),
        ({"outputs": [{"name": "y"}, {"name": "y"}]}, "asked for twice"),
        ({"outputs": [{"name": "z"}]}, "'z'"),
        ({"outputs": {"name": "y"}}, "list"),
    ],
)
def test_wrong_wish_is_refused(_members, _word):
    assert _word in refusal(MANY, binary(), **_members)


@pytest.mark.parametrize(
    ("_members", "_expected"),
    [
        ({}, [("y", False)]),
        ({"parameters": {"binary_data_output": True}}, [("y", True)]),
        ({"outputs": [{"name": "y", "parameters": {"binary_data": True}}]}, [("y", True)]),
        (
            {
                "parameters": {"binary_data_output": True, "timeout": 5, "mine": "x"},
                "outputs": [{"name": "y", "parameters": {"binary_data": False}}],
            },
            [("y", False)],
        ),
        (
            {"parameters": {"binary_data_output": True}, "outputs": [{"name": "y"}]},
            [("y", True)],
        ),
    ],
)
def test_form_of_an_output_is_its_own_or_the_requests(_members, _expected):
    wanted, _ = read(MANY, *body_of(binary(), **_members))

    assert [(one.output.name, one.is_binary) for one in wanted] == _expected


# --- No bytes lead to anything else ---

ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["x", "note", "grid", "FP32", "BYTES", "y", 16, 4, [1, 4], [1, 1]]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
NAMES = st.sampled_from([one.name for one in MANY.inputs]) | ODD
SIZES = st.integers(0, 24) | ODD
PARAMETERS = st.fixed_dictionaries({}, optional={"binary_data_size": SIZES, "other": ODD}) | ODD
TENSORS = st.fixed_dictionaries(
    {"name": NAMES},
    optional={
        "shape": st.lists(st.integers(-1, 5), max_size=3) | ODD,
        "datatype": st.sampled_from(sorted(NUMPY_TYPES)) | ODD,
        "data": st.lists(ODD, max_size=4) | ODD,
        "parameters": PARAMETERS,
    },
)
OUTPUTS = st.fixed_dictionaries({"name": st.just("y") | ODD}, optional={"parameters": PARAMETERS})
DOCUMENTS = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS | ODD, max_size=4) | ODD},
    optional={
        "id": ODD,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_output": ODD}) | ODD,
        "outputs": st.lists(OUTPUTS | ODD, max_size=3) | ODD,
    },
)
GOOD = body_of(
    binary(data=X),
    binary("note", (1, 1), "BYTES", ["größe".encode()]),
    binary("flags", (1, 2), "BOOL", b"\1\0"),
    id="mine",
    parameters={"binary_data_output": True},
)


@st.composite
def damaged_bodies(draw, good):
    """A good request with some bytes exchanged, put in or taken away."""
    body = bytearray(good[0])
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(body), draw(st.just(good[1]) | st.integers(-2, len(body) + 2))


@st.composite
def odd_bodies(draw):
    part = json.dumps(draw(DOCUMENTS)).encode()
    return part + draw(st.binary(max_size=40)), draw(st.just(len(part)) | st.none())


def check_fate(body, json_bytes):
    try:
        _, tensors = read(MANY, body, json_bytes)
    except MarketplaceError as error:
        refused = error
    else:
        check_tensors(tensors)
        return
    assert 400 <= refused.http_status < 500
    assert orjson.loads(orjson.dumps(refused.detail))


def check_tensors(tensors):
    assert [one.name for one in tensors] == [one.name for one in MANY.inputs]
    rows = tensors[0].shape[0]
    assert 1 <= rows <= 4
    for one, described in zip(tensors, MANY.inputs, strict=True):
        assert one.data.shape == one.shape
        assert one.shape[0] == rows
        assert one.data.dtype == NUMPY_TYPES[described.datatype]
        assert one.to_bytes() is not None


@settings(max_examples=500, deadline=None)
@given(damaged_bodies(GOOD))
def test_damaged_request_is_answered_or_refused(given):
    check_fate(*given)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(odd_bodies())
def test_odd_request_is_answered_or_refused(given):
    check_fate(*given)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.none() | st.integers(-1, 90))
def test_any_bytes_are_answered_or_refused(body, json_bytes):
    check_fate(body, json_bytes)


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=6) | st.none(),
    st.binary(max_size=20),
)
def test_any_length_is_taken_or_refused(text, body):
    try:
        length = read_json_length({HEADER: text}, len(body))
    except InvalidInputError:
        return
    assert 1 <= length <= len(body)
    assert text == text.strip()


# --- Compression ---


@pytest.mark.parametrize("_encoding", WINDOW_BITS)
def test_body_inflates_up_to_the_limit(_encoding):
    bits = WINDOW_BITS[_encoding]

    assert inflate(compress(b"a" * 1000, bits), bits, 1000) == b"a" * 1000
    with pytest.raises(PayloadTooLargeError):
        inflate(compress(b"a" * 1001, bits), bits, 1000)


@pytest.mark.parametrize("_encoding", WINDOW_BITS)
def test_compressed_body_that_is_damaged_is_refused(_encoding):
    bits = WINDOW_BITS[_encoding]
    body = compress(b"abc" * 100, bits)

    for damaged in (b"", body[:-1], body + b"\0", body + body, b"{}", body[:-1] + b"\0\0"):
        with pytest.raises(InvalidInputError):
            inflate(damaged, bits, 10_000)


def test_bomb_is_given_up_at_the_limit(monkeypatch):
    bomb = compress(bytes(64 * MIB), 31)
    made = []

    class Inflater:
        eof, unused_data = False, b""

        def __init__(self, bits):
            self.inner = zlib.decompressobj(bits)

        def decompress(self, body, max_length):
            made.append(self.inner.decompress(body, max_length))
            return made[-1]

    class Zlib:
        decompressobj = Inflater
        error = zlib.error

    monkeypatch.setattr("inference.gateway.compression.zlib", Zlib)
    with pytest.raises(PayloadTooLargeError):
        inflate(bomb, 31, 1000)

    assert [len(one) for one in made] == [1001]


@settings(max_examples=200)
@given(st.binary(max_size=100), st.sampled_from([15, 31]), st.booleans())
def test_any_compressed_bytes_are_read_or_refused(body, bits, is_whole):
    with contextlib.suppress(PayloadTooLargeError, InvalidInputError):
        assert inflate(compress(body, bits) if is_whole else body, bits, 60) == body


def compress(body, bits):
    deflater = zlib.compressobj(wbits=bits)
    return deflater.compress(body) + deflater.flush()


# --- What is answered ---

ANSWERS = interface_of(
    tensor_input(),
    outputs=[
        *({"name": name, "kind": "tensor", "datatype": name, "shape": [-1]} for name in NUMBERS),
        {"name": "BYTES", "kind": "text"},
    ],
)


@settings(deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(0, 5))
def test_client_reads_what_the_model_answered(data, rows, width):
    outputs = {
        name: data.draw(
            arrays(
                NUMPY_TYPES[name],
                (rows, width),
                elements={"allow_nan": False, "allow_infinity": False}
                if name.startswith("FP")
                else None,
            )
        )
        for name in NUMBERS
    }
    texts = data.draw(st.lists(st.text(max_size=5), min_size=rows, max_size=rows))
    outputs["BYTES"] = np.array([[one.encode()] for one in texts] + [[None]], object)[:rows]
    are_binary = {name: data.draw(st.booleans()) for name in outputs}
    wanted = choose_outputs(
        ANSWERS,
        {
            "outputs": [
                {"name": name, "parameters": {"binary_data": is_binary}}
                for name, is_binary in are_binary.items()
            ]
        },
    )

    answer = render_answer(ANSWERS, {"id": "mine"}, wanted, outputs, rows=rows)

    sent = answer.to_http(cost_nanos=0)
    assert (HEADER in dict(sent.headers)) == any(are_binary.values())
    length = dict(sent.headers).get(HEADER)
    result = InferResult.from_response_body(sent.body, header_length=length)
    assert result.get_response()["id"] == "mine"
    for name, array in outputs.items():
        got = result.as_numpy(name)
        assert got.shape == array.shape
        if name != "BYTES":
            assert pack(name, got) == pack(name, array)
        elif are_binary[name]:
            assert got.tolist() == array.tolist()
        else:
            assert got.ravel().tolist() == texts
    kept = orjson.loads(orjson.dumps(answer.to_stored()))
    assert InferAnswer.from_stored(kept).to_http(cost_nanos=0).body == sent.body


def test_large_answer_is_never_a_list():
    interface = interface_of(tensor_input())
    wanted = choose_outputs(interface, {"parameters": {"binary_data_output": True}})
    outputs = {"y": np.ones((1, MIB // 4), np.float32)}

    with traced_peak() as peak:
        answer = render_answer(interface, {}, wanted, outputs, rows=1).to_http(cost_nanos=0)

    assert answer.body.endswith(outputs["y"].tobytes())
    # The output and the body that it is put into.
    assert peak() < 3 * MIB


@pytest.mark.parametrize("_is_binary", [True, False])
@pytest.mark.parametrize(
    "_outputs",
    [
        {"y": np.array([[1, np.nan]], np.float32), "t": np.array([[b"a"]], object)},
        {"y": np.array([[1, np.inf]], np.float32), "t": np.array([[b"a"]], object)},
        {"y": np.array([[1, 2]], np.float64), "t": np.array([[b"a"]], object)},
        {"y": np.ones((2, 1), np.float32), "t": np.array([[b"a"], [b"b"]], object)},
        {"y": np.array([[1, 2]], np.float32), "t": np.array([[b"\xff"]], object)},
        {"y": np.array([[1, 2]], np.float32)},
    ],
)
def test_answer_that_breaks_the_models_promise_is_refused_in_both_forms(_outputs, _is_binary):
    interface = interface_of(tensor_input(), outputs=[OUTPUT, {"name": "t", "kind": "text"}])
    wanted = choose_outputs(interface, {"parameters": {"binary_data_output": _is_binary}})

    with pytest.raises(OutputError):
        render_answer(interface, {}, wanted, _outputs, rows=1)


# --- Through a running gateway ---

over_http = pytest.mark.django_db(transaction=True)


def post(client, body, json_bytes=None, **headers):
    if json_bytes is not None:
        headers[HEADER] = str(json_bytes)
    return client.post(PATH, content=body, headers=headers)


def error_of(response):
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-cost-nano-usd"] == "0"
    document = response.json()
    assert list(document) == ["error"]
    return document["error"]


@over_http
@pytest.mark.parametrize(
    ("_encode", "_status", "_word"),
    [
        (lambda body, at: (body, at - 1, {}), 400, "JSON"),
        (lambda body, at: (body, 0, {}), 422, "Inference-Header-Content-Length"),
        (lambda body, at: (body, -5, {}), 422, "Inference-Header-Content-Length"),
        (lambda body, at: (body, "12;", {}), 422, "Inference-Header-Content-Length"),
        (lambda body, at: (body, len(body) + 1, {}), 422, "Inference-Header-Content-Length"),
        (lambda body, at: (body + b"\0", at, {}), 422, "more bytes"),
        (lambda body, at: (body[:-1], at, {}), 422, "beyond the end"),
        (lambda body, at: (body[:-4] + b"\0\0\xc8\x7f", at, {}), 422, "finite"),
        (lambda body, at: (body[:-4] + b"\0\0\xca\x42", at, {}), 422, "at most 100"),
        (lambda body, at: (body, at, {"content-encoding": "gzip"}), 422, "Content-Encoding"),
        (lambda body, at: (body, at, {"content-encoding": "br"}), 422, "gzip or deflate"),
        (lambda body, at: (body, at, {"content-encoding": "gzip, gzip"}), 422, "gzip or"),
        (lambda body, at: (body, at, {"content-encoding": b"\xff"}), 422, "gzip or deflate"),
    ],
)
def test_refused_octets_hold_nothing(shop, client, _encode, _status, _word):
    body, json_bytes, headers = _encode(*body_of(binary(data=X)))

    response = post(client, body, json_bytes, **headers)

    assert response.status_code == _status
    assert _word in error_of(response)
    check_untouched(shop)


@over_http
@pytest.mark.parametrize("_encoding", WINDOW_BITS)
def test_bomb_is_refused_and_holds_nothing(shop, client, _encoding):
    body, json_bytes = body_of(binary(data=X))
    bomb = compress(body + bytes(100_000_000), WINDOW_BITS[_encoding])
    assert len(bomb) < MIB

    response = post(client, bomb, json_bytes, **{"content-encoding": _encoding})

    assert response.status_code == 413
    assert "decompression" in error_of(response)
    check_untouched(shop)


@over_http
@pytest.mark.parametrize("_encoding", WINDOW_BITS)
def test_body_at_the_limit_is_taken_compressed(shop, client, _encoding):
    limit_bytes = 10 * MIB
    body = orjson.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": X}]})
    for size_bytes, status in ((limit_bytes, 200), (limit_bytes + 1, 413)):
        packed = compress(body.ljust(size_bytes), WINDOW_BITS[_encoding])

        response = post(client, packed, **{"content-encoding": _encoding})

        assert response.status_code == status


def split(response):
    """The JSON of a binary answer and what follows it."""
    json_bytes = int(response.headers[HEADER])
    return orjson.loads(response.content[:json_bytes]), response.content[json_bytes:]


@over_http
def test_keyed_retry_gets_the_same_octets_and_pays_once(shop, client):
    wish = {
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "y"}, {"name": "echo"}],
    }
    # Neither -0.0 nor NUL could be kept as JSON.
    note = binary("note", (1, 1), "BYTES", [b"a\0b"])
    body, json_bytes = body_of(binary(data=[-0.0, 0.1, 1, 2]), note, **wish)
    other_body = body[:json_bytes] + b" " + body[json_bytes:]

    first = post(client, body, json_bytes, **{"idempotency-key": "k"})
    again = post(client, body, json_bytes, **{"idempotency-key": "k"})
    other = post(client, other_body, json_bytes + 1, **{"idempotency-key": "k"})

    assert (first.status_code, again.status_code, other.status_code) == (200, 200, 422)
    parts = [split(response) for response in (first, again)]
    assert parts[0] == parts[1]
    assert parts[0][1] == octets_of("FP32", [-0.0, 0.2, 2, 4]) + octets_of("BYTES", [b"a\0b"])
    assert again.headers["content-type"] == "application/octet-stream"
    assert again.headers["idempotent-replayed"] == "true"
    assert UsageEvent.objects.get().gross_nanos == PRICE_NANOS
    prediction = client.get(f"/v1/predictions/{first.headers['inference-id']}").json()
    assert prediction["output"]["outputs"][0]["data"] == "AAAAgM3MTD4AAABAAACAQA=="


@over_http
def test_same_bytes_with_another_json_length_are_another_request(shop, client):
    head = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": X}
    body, json_bytes = body_of((head, b""))

    assert post(client, body, json_bytes, **{"idempotency-key": "k"}).status_code == 200
    response = post(client, body, None, **{"idempotency-key": "k"})

    assert response.status_code == 422
    assert UsageEvent.objects.count() == 1


@over_http
def test_any_bytes_get_an_answer_or_a_refusal(shop, client):
    shop.fund(10_000 * PRICE_NANOS)
    answered = []
    good = body_of(
        binary(data=X),
        binary("note", (1, 1), "BYTES", ["größe".encode()]),
        parameters={"binary_data_output": True},
    )

    @settings(max_examples=150, deadline=None, database=None)
    @given(damaged_bodies(good) | odd_bodies())
    def send(given):
        response = post(client, *given)
        assert response.status_code == 200 or 400 <= response.status_code < 500
        if response.status_code == 200:
            answered.append(int(response.headers["x-cost-nano-usd"]))
        else:
            error_of(response)

    send()
    assert answered
    assert post(client, *body_of(binary(data=X))).status_code == 200
    wallet = LedgerAccount.objects.get(pk=shop.wallet_id)
    assert wallet.posted_nanos == shop.funded_nanos - sum(answered) - PRICE_NANOS
    assert UsageEvent.objects.count() == len(answered) + 1
    check_ledger()
