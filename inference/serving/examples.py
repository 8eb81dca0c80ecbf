"""Inputs for the first run of a model: the creator's own, or the plainest that fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from inference.serving.runtimes.base import Arrays
from strongroom.interface import Input, Interface
from strongroom.sealing.manifest import Manifest

DTYPES: Mapping[str, Any] = {
    "FP32": np.float32,
    "FP64": np.float64,
    "INT64": np.int64,
    "INT32": np.int32,
    "INT16": np.int16,
    "INT8": np.int8,
    "UINT64": np.uint64,
    "UINT32": np.uint32,
    "UINT16": np.uint16,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}
# An axis of free length, where nobody says how long it should be.
_FREE_LENGTH = 1
_TEXT = "Warm up."


def make_example(manifest: Manifest, interface: Interface) -> Arrays:
    """One row for every input, in the interface's order.

    The first test vector if there is one, else examples, defaults and zeros.
    """
    given: Mapping[str, Any] = {}
    if manifest.test_vectors:
        given = interface.check_input(dict(manifest.test_vectors[0].input))
    return [encode(one, given.get(one.name, _find_value(one))) for one in interface.inputs]


def encode(one: Input, value: Any) -> np.ndarray:
    """A checked value as one row, in the form that Triton hands over."""
    if one.datatype == "BYTES":
        return np.array([[str(value).encode()]], dtype=object)
    array = np.asarray(value, DTYPES[one.datatype])
    shape = one.wire_shape
    if len(shape) > 1 and array.ndim == 1 and shape.count(-1) <= 1:
        # A flat list stands for any shape of its length.
        return array.reshape(1, *shape)
    return array.reshape(1, *(array.shape if array.ndim == len(shape) else shape))


def _find_value(one: Input) -> Any:
    if one.example is not None:
        return one.example
    if one.default is not None:
        return one.default
    if one.kind == "text":
        return _TEXT[: one.max_length]
    if one.kind == "choice":
        return one.choices[0]
    value = _find_number(one)
    if not one.shape:
        return value
    shape = [_FREE_LENGTH if length == -1 else length for length in one.shape]
    return np.full(shape, value).tolist()


def _find_number(one: Input) -> Any:
    if one.datatype == "BOOL":
        return False
    low = -math.inf if one.minimum is None else one.minimum
    high = math.inf if one.maximum is None else one.maximum
    return min(max(0, low), high)
