from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from inference.triton.errors import OutputError, TensorError
from inference.triton.tensors import NUMPY_TYPES, decode, encode, pack, unpack
from strongroom.interface import Interface

ONE_TEXT = {"name": "t", "kind": "text"}


def interface(*inputs, outputs=(ONE_TEXT,), max_size=8):
    return Interface.parse(
        {
            "inputs": list(inputs or [ONE_TEXT]),
            "outputs": list(outputs),
            "batch": {"max_size": max_size},
        }
    )


def tensor(name, shape, datatype="FP32", **members):
    return {"name": name, "kind": "tensor", "datatype": datatype, "shape": shape, **members}


def label(top=1, labels=("a", "b", "c")):
    one = {"name": "best", "kind": "label", "source": "scores", "labels": list(labels)}
    return one | ({"top": top} if top != 1 else {})


def test_every_kind_becomes_a_tensor_with_a_batch_axis():
    described = interface(
        {"name": "text", "kind": "text"},
        {"name": "mood", "kind": "choice", "choices": ["froh"]},
        {"name": "heat", "kind": "number"},
        {"name": "exact", "kind": "number", "datatype": "FP64"},
        {"name": "count", "kind": "integer"},
        {"name": "loud", "kind": "boolean"},
        tensor("image", [2, 2], "UINT8"),
        tensor("one", []),
    )
    row = {
        "text": "Grüße\0",
        "mood": "froh",
        "heat": 0.1,
        "exact": 0.1,
        "count": 2**62 + 1,
        "loud": True,
        "image": [[1, 2], [3, 255]],
        "one": 7,
    }

    made = {one.name: one for one in encode(described, [described.check_input(row)])}

    assert {name: (one.datatype, one.shape) for name, one in made.items()} == {
        "text": ("BYTES", (1, 1)),
        "mood": ("BYTES", (1, 1)),
        "heat": ("FP32", (1, 1)),
        "exact": ("FP64", (1, 1)),
        "count": ("INT64", (1, 1)),
        "loud": ("BOOL", (1, 1)),
        "image": ("UINT8", (1, 2, 2)),
        "one": ("FP32", (1, 1)),
    }
    assert made["text"].data.tolist() == [["Grüße\0".encode()]]
    assert made["heat"].data[0, 0] == np.float32(0.1)
    assert made["exact"].data[0, 0] == 0.1
    assert made["count"].data[0, 0] == 2**62 + 1
    assert made["image"].data.tolist() == [[[1, 2], [3, 255]]]
    assert all(one.data.dtype == NUMPY_TYPES[one.datatype] for one in made.values())


def test_largest_integers_are_exact():
    described = interface(tensor("x", [2], "UINT64"), tensor("y", [2], "INT64"))

    x, y = encode(described, [{"x": [2**64 - 1, 0], "y": [-(2**63), 2**63 - 1]}])

    assert x.data.tolist() == [[2**64 - 1, 0]]
    assert y.data.tolist() == [[-(2**63), 2**63 - 1]]


@pytest.mark.parametrize(
    ("shape", "value", "expected"),
    [
        ([2, 3], [1, 2, 3, 4, 5, 6], (2, 3)),
        ([-1, 3], [1, 2, 3, 4, 5, 6], (2, 3)),
        ([2, 3], [[1, 2, 3], [4, 5, 6]], (2, 3)),
        ([-1, -1], [[1, 2], [3, 4], [5, 6]], (3, 2)),
        ([-1], [1, 2, 3, 4, 5, 6], (6,)),
    ],
)
def test_flat_and_nested_lists_take_the_shape_of_the_interface(shape, value, expected):
    described = interface(tensor("x", shape))
    row = described.check_input({"x": value})

    (made,) = encode(described, [row])

    assert made.shape == (1, *expected)
    assert made.data.ravel().tolist() == [1, 2, 3, 4, 5, 6]


def test_rows_are_stacked():
    described = interface(tensor("x", [2]), {"name": "t", "kind": "text"})

    x, t = encode(described, [{"x": [1, 2], "t": "a"}, {"x": [3, 4], "t": "b"}])

    assert x.data.tolist() == [[1, 2], [3, 4]]
    assert t.data.tolist() == [[b"a"], [b"b"]]


def test_rows_of_different_lengths_are_refused():
    described = interface(tensor("x", [-1]))

    with pytest.raises(TensorError, match="x differ in length"):
        encode(described, [{"x": [1]}, {"x": [1, 2]}])


def test_the_batch_has_its_limit():
    described = interface(max_size=2)

    assert encode(described, [{"t": "a"}] * 2)[0].shape == (2, 1)
    with pytest.raises(TensorError, match="3 rows"):
        encode(described, [{"t": "a"}] * 3)
    with pytest.raises(TensorError, match="0 rows"):
        encode(described, [])


def test_answers_are_one_object_a_row_without_what_is_hidden():
    described = interface(
        outputs=[
            {"name": "text", "kind": "text"},
            {"name": "count", "kind": "integer"},
            {"name": "loud", "kind": "boolean"},
            {"name": "heat", "kind": "number"},
            tensor("scores", [3], hidden=True),
            label(),
        ]
    )
    outputs = {
        "text": np.array([["ä".encode()], [b""]], dtype=object),
        "count": np.array([[2**62 + 1], [-1]]),
        "loud": np.array([[True], [False]]),
        "heat": np.array([[0.1], [2.0]], dtype=np.float32),
        "scores": np.array([[0.1, 0.7, 0.2], [0.9, 0.05, 0.05]], dtype=np.float32),
    }

    answers = decode(described, outputs)

    assert answers == [
        {
            "text": "ä",
            "count": 2**62 + 1,
            "loud": True,
            "heat": 0.1,
            "best": {"label": "b", "score": 0.7},
        },
        {
            "text": "",
            "count": -1,
            "loud": False,
            "heat": 2.0,
            "best": {"label": "a", "score": 0.9},
        },
    ]
    assert list(answers[0]) == ["text", "count", "loud", "heat", "best"]
    shown = decode(described, outputs, include_hidden=True)
    assert shown[0]["scores"] == [0.1, 0.7, 0.2]
    # Plain values only: they are written as JSON next.
    assert orjson.loads(orjson.dumps(answers)) == answers


def test_the_best_labels_come_in_order_and_ties_in_the_order_of_the_labels():
    described = interface(outputs=[tensor("scores", [3], hidden=True), label(top=2)])
    scores = np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]], dtype=np.float32)

    first, second = (one["best"] for one in decode(described, {"scores": scores}))

    assert first == {
        "label": "b",
        "score": 0.5,
        "top": [{"label": "b", "score": 0.5}, {"label": "c", "score": 0.3}],
    }
    assert [one["label"] for one in second["top"]] == ["a", "c"]


@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_carry_is_an_error(value, hidden):
    described = interface(outputs=[tensor("scores", [3], hidden=hidden), label()])
    scores = np.array([[0.0, value, 1.0]], dtype=np.float32)

    with pytest.raises(OutputError, match="scores holds NaN or infinity"):
        decode(described, {"scores": scores})


@pytest.mark.parametrize(
    ("output", "array", "detail"),
    [
        (tensor("x", [2]), None, "did not answer x"),
        (tensor("x", [2]), np.zeros((1, 3), np.float32), r"shape \[3\], not \[2\]"),
        (tensor("x", [2]), np.zeros((1, 2, 1), np.float32), "shape"),
        (tensor("x", [2]), np.zeros(2, np.float32), "shape"),
        (tensor("x", [2]), np.zeros((1, 2), np.float64), "float64, not FP32"),
        ({"name": "x", "kind": "text"}, np.zeros((1, 1), np.float32), "not BYTES"),
        ({"name": "x", "kind": "text"}, np.array([[b"\xff"]], dtype=object), "no UTF-8"),
        ({"name": "x", "kind": "text"}, np.array([[b"a", b"b"]], dtype=object), "shape"),
    ],
)
def test_an_answer_that_was_not_promised_is_an_error(output, array, detail):
    described = interface(outputs=[output])

    with pytest.raises(OutputError, match=detail):
        decode(described, {} if array is None else {"x": array})


def test_outputs_of_different_numbers_of_rows_are_an_error():
    described = interface(outputs=[tensor("x", [1]), tensor("y", [1])])
    outputs = {"x": np.zeros((2, 1), np.float32), "y": np.zeros((1, 1), np.float32)}

    with pytest.raises(OutputError, match="numbers of rows"):
        decode(described, outputs)


def test_variable_axes_may_have_any_length():
    described = interface(outputs=[tensor("x", [-1, 2])])

    assert decode(described, {"x": np.ones((1, 3, 2), np.float32)}) == [{"x": [[1.0, 1.0]] * 3}]
    assert decode(described, {"x": np.ones((1, 0, 2), np.float32)}) == [{"x": []}]


@given(
    arrays(np.float32, (1, 5), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
)
def test_short_decimals_name_the_same_floats(array):
    described = interface(outputs=[tensor("x", [5])])

    (answer,) = decode(described, {"x": array})

    assert np.array_equal(np.array(answer["x"], dtype=np.float32), array[0])
    # Nine digits are enough for any of them; seventeen is what a double would show.
    digits = [Decimal(repr(one)).normalize().as_tuple().digits for one in answer["x"]]
    assert all(len(one) <= 9 for one in digits)


@given(
    st.sampled_from(sorted(set(NUMPY_TYPES) - {"BYTES"})).flatmap(
        lambda datatype: st.tuples(
            st.just(datatype),
            arrays(NUMPY_TYPES[datatype], st.sampled_from([(0,), (3,), (2, 3), (1, 1)])),
        )
    )
)
def test_numbers_survive_the_binary_form(case):
    datatype, array = case

    again = unpack(datatype, array.shape, pack(datatype, array))

    assert again.dtype == array.dtype
    assert again.tobytes() == array.tobytes()


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_texts_survive_the_binary_form(texts):
    array = np.empty(len(texts), dtype=object)
    array[:] = texts

    assert unpack("BYTES", [len(texts)], pack("BYTES", array)).tolist() == texts


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "detail"),
    [
        ("FP32", [2], b"\0" * 7, "no whole number"),
        ("FP32", [2], b"\0" * 4, "1 elements"),
        ("FP32", [1], b"\0" * 8, "2 elements"),
        ("FP32", [-1], b"\0" * 4, "negative"),
        ("FP16", [1], b"\0\0", "no datatype FP16"),
        ("BOOL", [2], b"\1\2", "0 or 1"),
        ("BYTES", [1], b"\1\0\0", "inside a length"),
        ("BYTES", [1], b"\2\0\0\0a", "inside a text"),
        ("BYTES", [1], b"\xff\xff\xff\xffa", "inside a text"),
        ("BYTES", [2], b"\1\0\0\0a", "1 elements"),
    ],
)
def test_octets_that_do_not_fit_are_refused(datatype, shape, data, detail):
    with pytest.raises(TensorError, match=detail):
        unpack(datatype, shape, data)


def test_a_tensor_knows_its_octets():
    described = interface(tensor("x", [2], "INT16"))

    assert encode(described, [{"x": [1, -2]}])[0].to_bytes() == b"\x01\x00\xfe\xff"
