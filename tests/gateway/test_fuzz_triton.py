"""Whatever a model server answers, in whatever pieces, is an answer or a failure of its side."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inference.gateway.protocols.oip_answer import render_answer
from inference.gateway.protocols.oip_request import choose_outputs
from inference.gateway.triton_pool import _HEAD_BYTES_MAX, Connection, _read_answer
from inference.triton import tensors
from inference.triton.errors import OutputError
from inference.triton.tensors import ANSWER_BYTES_MAX, NUMPY_TYPES
from strongroom.interface import Interface
from tests.gateway.conftest import INTERFACE
from tests.gateway.hostile import INTEGERS, JSON, TEXTS, Refused, fuzz, mostly, objects, try_out

ECHO = Interface.parse(INTERFACE)
# A refusal of the request itself is Triton's to make: 422.
STATUSES = range(400, 600)
OUTPUTS = st.lists(
    mostly(
        objects(
            {
                "name": mostly(st.sampled_from(["y", "scores", "secret", "echo"])),
                "datatype": mostly(st.sampled_from([*NUMPY_TYPES])),
                "shape": mostly(st.lists(mostly(st.integers(0, 4), INTEGERS), max_size=3)),
                "parameters": mostly(objects({"binary_data_size": mostly(st.integers(0, 20))})),
            }
        )
    ),
    max_size=4,
)
DOCUMENTS = st.one_of(objects({"outputs": mostly(OUTPUTS)}), objects({"error": TEXTS}), JSON)


class Wire:
    """Takes what is written, and is closed when it is given up."""

    def __init__(self) -> None:
        self.is_closed = False

    def writelines(self, parts) -> None:
        pass

    def is_closing(self) -> bool:
        return self.is_closed

    def abort(self) -> None:
        self.is_closed = True


def http(status, body, *headers, length=None):
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {size}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def receive(answer: bytes, cuts=(), *, connection=None):
    """What a call gets of an answer that comes in these pieces, before the server closes."""

    async def run():
        used = connection or Connection()
        if connection is None:
            used.connection_made(Wire())
        call = asyncio.ensure_future(used.exchange(b"", [], lambda: lambda: None))
        await asyncio.sleep(0)
        places = [0, *sorted(cut % (len(answer) + 1) for cut in cuts), len(answer)]
        for begin, end in itertools.pairwise(places):
            if not used.transport.is_closing():
                used.data_received(answer[begin:end])
        if not call.done():
            used.connection_lost(None)
        return await call

    return asyncio.run(run())


def answer_of(outputs) -> bytes:
    """A right answer with these outputs."""
    parts = [tensors.pack(datatype, array) for _, datatype, array in outputs]
    document = {
        "outputs": [
            {
                "name": name,
                "datatype": datatype,
                "shape": list(array.shape),
                "parameters": {"binary_data_size": len(part)},
            }
            for (name, datatype, array), part in zip(outputs, parts, strict=True)
        ]
    }
    head = json.dumps(document).encode()
    return http(200, head + b"".join(parts), f"Inference-Header-Content-Length: {len(head)}")


RIGHT = answer_of(
    [
        ("y", "FP32", np.arange(4, dtype=np.float32)[np.newaxis]),
        ("scores", "FP32", np.array([[0.1, 0.7, 0.2]], np.float32)),
        ("secret", "FP32", np.zeros((1, 1), np.float32)),
        ("echo", "BYTES", np.array([["größer".encode()]], dtype=object)),
    ]
)
EXPECTED = {
    "y": [0, 1, 2, 3],
    "scores": [0.1, 0.7, 0.2],
    "kind": {"label": "b", "score": 0.7},
    "echo": "größer",
}


def predict(answer: bytes, cuts=()):
    """An answer on its way to the consumer: rows of /v1, and the same as /v2 renders them."""
    outputs = _read_answer("r0", *receive(answer, cuts))
    rows = tensors.decode(ECHO, outputs)
    wanted = choose_outputs(ECHO, {"parameters": {"binary_data_output": True}})
    render_answer(ECHO, {}, wanted, outputs, rows=len(rows)).to_http(cost_nanos=0)
    return rows


@fuzz
@given(st.lists(st.integers(0, len(RIGHT)), max_size=5))
def test_answer_is_the_same_in_whatever_pieces_it_comes(cuts):
    assert predict(RIGHT, cuts) == [EXPECTED]


def test_answer_that_comes_octet_by_octet_is_the_same():
    assert predict(RIGHT, range(len(RIGHT))) == [EXPECTED]


@fuzz
@given(st.integers(0, len(RIGHT) - 1), st.lists(st.integers(0, len(RIGHT)), max_size=3))
def test_answer_that_is_cut_is_a_failure_of_the_server(end, cuts):
    found = try_out(lambda: predict(RIGHT[:end], cuts), statuses=STATUSES)

    assert found.code == "triton_unavailable"


@fuzz
@given(
    st.integers(0, len(RIGHT) - 1),
    st.binary(min_size=1, max_size=4),
    st.lists(st.integers(0, len(RIGHT)), max_size=3),
)
def test_answer_that_is_damaged_is_read_or_refused(at, octets, cuts):
    damaged = RIGHT[:at] + octets + RIGHT[at + len(octets) :]

    found = try_out(lambda: predict(damaged, cuts), statuses=STATUSES)

    if not isinstance(found, Refused):
        check_rows(found)


def check_rows(rows):
    """What is read is of the promised form."""
    for row in rows:
        assert row.keys() == EXPECTED.keys()
        assert len(row["y"]) == 4
        assert len(row["scores"]) == 3
        assert all(map(math.isfinite, row["y"] + row["scores"]))
        assert isinstance(row["echo"], str)


@fuzz
@given(
    st.one_of(st.integers(100, 599), st.text("0123456789 -+x", max_size=4)),
    mostly(st.none(), INTEGERS),
    mostly(st.none(), INTEGERS),
    st.one_of(DOCUMENTS.map(lambda one: json.dumps(one).encode()), st.binary(max_size=40)),
    st.binary(max_size=40),
    st.lists(st.integers(0, 200), max_size=3),
)
@example(200, None, -5, b'{"outputs":[]}', b"", [])
@example(200, -1, None, b"{}", b"", [])
@example(200, ANSWER_BYTES_MAX + 1, None, b"{}", b"", [])
@example(200, 10**30, None, b"{}", b"", [])
@example(200, None, 10**30, b"{}", b"", [])
@example("", None, None, b"{}", b"", [])
def test_any_answer_is_read_or_refused(status, length, json_bytes, document, octets, cuts):
    size = len(document) if json_bytes is None else json_bytes
    header = f"Inference-Header-Content-Length: {size}"
    answer = http(status, document + octets, header, length=length)

    found = try_out(lambda: predict(answer, cuts), statuses=STATUSES)

    if not isinstance(found, Refused):
        check_rows(found)


@fuzz
@given(st.binary(max_size=80), st.lists(st.integers(0, 80), max_size=3))
@example(b"\r\n\r\n", [])
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n", [])
@example(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", [])
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", [])
@example(b"HTTP/1.1 100 Continue\r\n\r\n" + RIGHT, [])
def test_what_is_no_answer_is_a_failure_of_the_server(octets, cuts):
    found = try_out(lambda: predict(octets, cuts), statuses=STATUSES)

    assert isinstance(found, Refused)


@fuzz
@given(st.data())
def test_sizes_of_outputs_that_lie_are_refused(data):
    sizes = data.draw(st.lists(mostly(st.integers(-8, 16), INTEGERS), min_size=2, max_size=2))
    document = {
        "outputs": [
            {
                "name": name,
                "datatype": "FP32",
                "shape": [1, 2],
                "parameters": {"binary_data_size": size},
            }
            for name, size in zip(("y", "z"), sizes, strict=True)
        ]
    }
    head = json.dumps(document).encode()

    octets = memoryview(head + bytes(16))

    found = try_out(lambda: _read_answer("r0", 200, len(head), octets), statuses=STATUSES)

    assert isinstance(found, Refused) == (sizes != [8, 8])


@pytest.mark.parametrize("_excess", [0, 1])
def test_head_without_an_end_is_given_up(_excess):
    # What has come so far is one piece; the next one could still bring the end.
    answer = b"x" * (_HEAD_BYTES_MAX + _excess)
    connection = Connection()
    connection.connection_made(Wire())

    found = try_out(lambda: receive(answer, connection=connection), statuses=STATUSES)

    assert ("has no end" in found.error.detail) == bool(_excess)


@pytest.mark.parametrize("_excess", [0, 1])
def test_length_of_an_answer_is_limited(_excess):
    tracemalloc.start()
    try:
        answer = http(200, b"{}", length=ANSWER_BYTES_MAX + _excess)
        found = try_out(lambda: receive(answer), statuses=STATUSES)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    # At the limit it is waited for, which the end of the connection cuts short.
    assert ("is not understood" in found.error.detail) == bool(_excess)
    assert peak_bytes < 1024 * 1024


# --- The checks above notice ---


def test_a_decoder_that_believes_the_model_is_noticed(monkeypatch):
    wide = {name: np.zeros((1, 5), np.float32) for name in ("y", "scores", "secret")}
    outputs = [(name, "FP32", array) for name, array in wide.items()]
    answer = answer_of([*outputs, ("echo", "BYTES", np.array([[b"x"]], dtype=object))])
    with pytest.raises(OutputError):
        predict(answer)
    monkeypatch.setattr(tensors, "_check_array", lambda one, array: None)

    rows = predict(answer)
    with pytest.raises(AssertionError):
        check_rows(rows)
