"""Tensors and what is said of them, as one piece of octets, between a gateway and a node.

Four octets tell how long the document is, then it comes as JSON, then the elements of each of its
`tensors`, one after the other, as Triton's binary extension has them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from inference.triton.errors import TensorError
from inference.triton.tensors import Tensor, unpack

CONTENT_TYPE = "application/x-strongroom-frame"
TENSORS_MAX = 64
AXES_MAX = 16
_HEAD = struct.Struct("<I")
_HEAD_BYTES_MAX = 1024 * 1024


def dump(document: Mapping[str, Any], tensors: Sequence[Tensor] = ()) -> bytes:
    """One piece of octets.

    Args:
        document: Anything that JSON has; its member `tensors` is ours.
        tensors: In the order in which they are read again.
    """
    packed = [bytes(one.to_bytes()) for one in tensors]
    described = [
        {"name": one.name, "datatype": one.datatype, "shape": one.shape, "size_bytes": len(octets)}
        for one, octets in zip(tensors, packed, strict=True)
    ]
    head = orjson.dumps({**document, "tensors": described})
    return b"".join([_HEAD.pack(len(head)), head, *packed])


def load(octets: bytes) -> tuple[dict[str, Any], list[Tensor]]:
    """The inverse of `dump`.

    Raises:
        TensorError: The octets are not such a piece.
    """
    try:
        (length,) = _HEAD.unpack_from(octets)
        if length > _HEAD_BYTES_MAX or _HEAD.size + length > len(octets):
            raise TensorError("the head of a frame does not fit")
        document = orjson.loads(octets[_HEAD.size : _HEAD.size + length])
        described = document.pop("tensors")
        if not isinstance(described, list) or len(described) > TENSORS_MAX:
            raise TensorError(f"a frame has at most {TENSORS_MAX} tensors")
        rest = memoryview(octets)[_HEAD.size + length :]
        tensors = []
        for one in described:
            size_bytes = one["size_bytes"]
            if not isinstance(size_bytes, int) or not 0 <= size_bytes <= len(rest):
                raise TensorError("a tensor is cut off")
            tensors.append(_read(one, rest[:size_bytes]))
            rest = rest[size_bytes:]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TensorError("this is no frame") from error
    if len(rest):
        raise TensorError("a frame has octets that nobody names")
    return document, tensors


def to_tensors(outputs: Mapping[str, np.ndarray]) -> list[Tensor]:
    """What Triton answered, as tensors."""
    return [
        Tensor(name, _name_datatype(array), array.shape, array) for name, array in outputs.items()
    ]


def to_outputs(tensors: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """The inverse of `to_tensors`."""
    return {one.name: one.data for one in tensors}


_NAMES = {
    "bool": "BOOL",
    "float32": "FP32",
    "float64": "FP64",
    **{
        f"{sign}int{bits}": f"{sign}int{bits}".upper()
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}


def _name_datatype(array: np.ndarray) -> str:
    return "BYTES" if array.dtype.kind in "OS" else _NAMES[array.dtype.name]


def _read(described: Mapping[str, Any], octets: memoryview) -> Tensor:
    name, datatype, shape = described["name"], described["datatype"], described["shape"]
    is_shape = isinstance(shape, list) and len(shape) <= AXES_MAX
    if not (isinstance(name, str) and isinstance(datatype, str) and is_shape):
        raise TensorError("a tensor is not described")
    if not all(type(one) is int for one in shape):
        raise TensorError("the lengths of a shape are whole numbers")
    data = unpack(datatype, shape, octets)
    return Tensor(name, datatype, tuple(shape), data)
