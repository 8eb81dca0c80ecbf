from __future__ import annotations

from typing import Any

import pytest

from inference.artifact.examples import make_rows
from inference.triton import tensors
from strongroom.interface import Interface
from strongroom.sealing.manifest import TestVector
from tests.inference.artifact.onnx_models import linear
from tests.inference.serving.sealed import seal

PANGRAM = b"The quick brown fox jumps over the lazy dog."
OUTPUTS = [{"name": "y", "kind": "number"}]


def example(tmp_path, inputs: list[dict[str, Any]], vector: dict[str, Any] | None = None) -> list:
    vectors = () if vector is None else (TestVector(vector, {"y": 1.0}),)
    described = {"inputs": inputs, "outputs": OUTPUTS}
    sealed = seal(
        tmp_path,
        {"model.onnx": ("onnx", linear())},
        runtime="onnx",
        interface=described,
        vectors=vectors,
    )
    interface = Interface.parse(described)
    row = make_rows(sealed.manifest, interface)[0]
    assert interface.check_input(row) == row
    return [
        (one.data.dtype.name, one.data.shape, one.data.ravel().tolist())
        for one in tensors.encode(interface, [row])
    ]


_INPUTS = {
    "text": (
        {"kind": "text"},
        ("object", (1, 1), [PANGRAM]),
    ),
    "short_text": ({"kind": "text", "max_length": 4}, ("object", (1, 1), [b"The "])),
    "choice": ({"kind": "choice", "choices": ["b", "a"]}, ("object", (1, 1), [b"b"])),
    "number": ({"kind": "number"}, ("float32", (1, 1), [0.0])),
    "least": ({"kind": "number", "minimum": 2}, ("float32", (1, 1), [2.0])),
    "most": ({"kind": "integer", "maximum": -3}, ("int64", (1, 1), [-3])),
    "boolean": ({"kind": "boolean"}, ("bool", (1, 1), [False])),
    "example": ({"kind": "integer", "example": 7}, ("int64", (1, 1), [7])),
    "default": (
        {"kind": "integer", "required": False, "default": 5},
        ("int64", (1, 1), [5]),
    ),
    "tensor": (
        {"kind": "tensor", "datatype": "UINT8", "shape": [2, -1]},
        ("uint8", (1, 2, 1), [0, 0]),
    ),
    "single_value": (
        {"kind": "tensor", "datatype": "FP64", "shape": []},
        ("float64", (1, 1), [0.0]),
    ),
}


@pytest.mark.parametrize("_case", _INPUTS)
def test_plainest_input_that_fits(tmp_path, _case):
    described, expected = _INPUTS[_case]

    assert example(tmp_path, [{"name": "x", **described}]) == [expected]


def test_first_test_vector_comes_first(tmp_path):
    inputs = [
        {"name": "x", "kind": "tensor", "datatype": "FP32", "shape": [2, 2]},
        {"name": "n", "kind": "integer", "required": False, "default": 3},
    ]

    assert example(tmp_path, inputs, {"x": [1, 2, 3, 4]}) == [
        ("float32", (1, 2, 2), [1.0, 2.0, 3.0, 4.0]),
        ("int64", (1, 1), [3]),
    ]
