"""Turn rows of JSON values into Triton's tensors, and tensors into rows of answers.

The interface decides everything: which tensors there are, their types and shapes. Each
tensor has the batch as its first axis. A label is not a tensor of the model: it is read off
the scores of its source here, the same for every runtime.

32-bit floats are answered by their shortest decimal form: 0.1, not 0.10000000149011612.
Both name the same float, and the answer is half as long.

Source: Open Inference Protocol, "Tensor Data"; Triton, binary tensor data extension.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from inference.triton import media
from inference.triton.errors import OutputError, TensorError
from strongroom.interface import Input, Interface, Output, read_data_url

NUMPY_TYPES: Mapping[str, Any] = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
# Of a server's whole answer: outputs as large as the largest of an interface, and their head.
ANSWER_BYTES_MAX = 512 * 1024 * 1024
# Of a request: whether a model that streams answers with pieces, or all at once.
STREAM_PARAMETER = "stream"
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array as Triton wants it. Texts are bytes objects in an object array."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: np.ndarray

    def to_bytes(self) -> bytes | memoryview:
        """The elements as the binary protocol carries them; numbers are not copied."""
        return pack(self.datatype, self.data)


def encode(interface: Interface, rows: Sequence[Mapping[str, Any]]) -> list[Tensor]:
    """Make one tensor per input out of rows that `Interface.check_input` has passed.

    Args:
        interface: Says what each value is.
        rows: At least one; every row has every input.

    Raises:
        TensorError: Rows of one batch have variable lengths that differ, or there are
            more than the model takes at once; or one names a file that nobody has fetched.
    """
    if not 1 <= len(rows) <= interface.batch.max_size:
        limit = interface.batch.max_size
        raise TensorError(f"{len(rows)} rows in a call; the model takes 1 to {limit}")
    tensors = []
    for one in interface.inputs:
        data = _encode_column(one, [row[one.name] for row in rows])
        tensors.append(Tensor(one.name, one.datatype, data.shape, data))
    return tensors


def decode(
    interface: Interface,
    outputs: Mapping[str, np.ndarray],
    *,
    include_hidden: bool = False,
    keep: media.Keep | None = None,
) -> list[dict[str, Any]]:
    """Make one answer per row: the visible outputs, by name, as JSON values.

    Args:
        interface: Says which outputs there are.
        outputs: What Triton answered, by name; texts as bytes.
        include_hidden: For test vectors, which may say what a hidden output holds.
        keep: Takes sounds and pictures that are too large for an answer.

    Raises:
        OutputError: A tensor is missing or has another type or shape than was promised,
            or holds what JSON cannot carry: NaN, infinity, text that is no UTF-8; or a
            sound or picture is empty.
        MediaTooLargeError: A sound or picture is larger than can be sent.
    """
    arrays = check_outputs(interface, outputs)
    shown = interface.outputs if include_hidden else interface.visible_outputs
    columns = [
        _decode_label(one, arrays[one.source])
        if one.kind == "label"
        else _decode_column(one, arrays[one.name], keep)
        for one in shown
    ]
    names = [one.name for one in shown]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def check_outputs(interface: Interface, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the model promised to answer, by name; the texts are not looked at yet.

    Raises:
        OutputError: A tensor is missing or has another type or shape than was promised,
            or holds NaN or infinity.
    """
    arrays: dict[str, np.ndarray] = {}
    count = -1
    for one in interface.wire_outputs:
        array = outputs.get(one.name)
        if array is None:
            raise OutputError(f"the model did not answer {one.name}")
        _check_array(one, array)
        if count not in (-1, len(array)):
            raise OutputError("the outputs have different numbers of rows")
        count = len(array)
        arrays[one.name] = array
    return arrays


def list_elements(one: Output, array: np.ndarray) -> list[Any]:
    """All elements of a checked output in row-major order, as JSON values.

    Raises:
        OutputError: A text is no UTF-8.
    """
    if one.datatype == "BYTES":
        return [_decode_text(one, item) for item in array.ravel()]
    return _to_json(array.reshape(-1))


def pack_output(one: Output, array: np.ndarray) -> bytes | memoryview:
    """All elements of a checked output as octets; what JSON could not carry is refused here too.

    Raises:
        OutputError: A text is no UTF-8.
    """
    if one.datatype == "BYTES":
        for item in array.ravel():
            _decode_text(one, item)
    return pack(one.datatype, array)


def pack(datatype: str, array: np.ndarray) -> bytes | memoryview:
    """The elements as little-endian octets; texts with their length before them.

    Numbers that lie in memory as they are sent are not copied.
    """
    if datatype == "BYTES":
        items = [bytes(item) for item in array.ravel()]
        return b"".join(part for item in items for part in (_LENGTH.pack(len(item)), item))
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return plain.reshape(-1).view(np.uint8).data


def unpack(datatype: str, shape: Sequence[int], data: bytes | memoryview) -> np.ndarray:
    """The inverse of `pack`.

    Raises:
        TensorError: The octets are too few or too many for the shape, or the datatype is
            not one of ours.
    """
    kind = NUMPY_TYPES.get(datatype)
    if kind is None:
        raise TensorError(f"there is no datatype {datatype[:32]}")
    if any(length < 0 for length in shape):
        raise TensorError("a shape has no negative lengths")
    array = _unpack_texts(data) if datatype == "BYTES" else _unpack_numbers(kind, data)
    count = 1
    for length in shape:
        count *= length
    if array.size != count:
        raise TensorError(f"{array.size} elements do not fill the shape {list(shape)}")
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError):
        # Nothing fills [0, 2**63], and numpy counts that far neither.
        raise TensorError("a length of the shape is too large") from None


def _encode_column(one: Input, values: list[Any]) -> np.ndarray:
    count = len(values)
    if one.datatype == "BYTES":
        texts = np.empty((count, 1), dtype=np.object_)
        texts[:, 0] = [_read_file(one, value) if one.format else value.encode() for value in values]
        return texts
    kind = NUMPY_TYPES[one.datatype]
    if not one.shape:
        return np.array(values, dtype=kind).reshape(count, 1)
    if count == 1:
        return _shaped(one, np.array(values[0], dtype=kind))[np.newaxis]
    arrays = [_shaped(one, np.array(value, dtype=kind)) for value in values]
    if any(array.shape != arrays[0].shape for array in arrays):
        raise TensorError(f"the rows of {one.name} differ in length; send them one by one")
    return np.stack(arrays)


def _read_file(one: Input, value: str | bytes) -> bytes:
    """The octets of an input that stands for a file; one that is named must be here already."""
    if isinstance(value, bytes):
        return value
    if not value.startswith("data:"):
        raise TensorError(f"{one.name} names a file, which is taken below /v1 only")
    return read_data_url(one, value)


def _shaped(one: Input, array: np.ndarray) -> np.ndarray:
    """A flat list has no axes of its own: it takes those of the interface."""
    return array if array.ndim == len(one.shape) else array.reshape(one.shape)


def _check_array(one: Output, array: np.ndarray) -> None:
    is_text = one.datatype == "BYTES"
    fits = array.dtype.kind in "OS" if is_text else array.dtype == NUMPY_TYPES[one.datatype]
    if not fits:
        raise OutputError(f"{one.name} is {array.dtype}, not {one.datatype}")
    wanted = one.wire_shape
    same_rank = array.ndim == len(wanted) + 1
    if not same_rank or any(
        length not in (-1, got) for length, got in zip(wanted, array.shape[1:], strict=True)
    ):
        shown = list(array.shape[1:])
        raise OutputError(f"{one.name} has the shape {shown}, not {list(wanted)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise OutputError(f"{one.name} holds NaN or infinity, which an answer cannot carry")


def _decode_column(one: Output, array: np.ndarray, keep: media.Keep | None) -> list[Any]:
    if one.datatype == "BYTES":
        return [_decode_text(one, item) for item in array[:, 0]]
    if one.media_type:
        return [media.render(one, row, keep) for row in array]
    if not one.shape:
        return _to_json(array[:, 0])
    return _to_json(array)


def _decode_text(one: Output, item: Any) -> str:
    if isinstance(item, str):
        return item
    try:
        return bytes(item).decode()
    except UnicodeDecodeError as error:
        raise OutputError(f"{one.name} is no UTF-8 text") from error


def _decode_label(one: Output, scores: np.ndarray) -> list[Any]:
    if one.top == 1:
        best = scores.argmax(axis=1)[:, np.newaxis]
    else:
        # Stable, so that equal scores come in the order of the labels.
        best = np.argsort(-scores, axis=1, kind="stable")[:, : one.top]
    values = _to_json(np.take_along_axis(scores, best, axis=1))
    answers = []
    for indices, row in zip(best.tolist(), values, strict=True):
        ranked = [
            {"label": one.labels[index], "score": score}
            for index, score in zip(indices, row, strict=True)
        ]
        answers.append(ranked[0] if one.top == 1 else ranked[0] | {"top": ranked})
    return answers


def _to_json(array: np.ndarray) -> list[Any]:
    """Nested lists of Python numbers; callers have refused what is not finite."""
    if array.dtype != np.float32:
        return array.tolist()
    text = orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)
    return orjson.loads(text)


def _unpack_texts(data: bytes | memoryview) -> np.ndarray:
    items: list[bytes] = []
    view, at = memoryview(data), 0
    while at < len(view):
        if at + _LENGTH.size > len(view):
            raise TensorError("the octets end inside a length")
        (length,) = _LENGTH.unpack_from(view, at)
        at += _LENGTH.size
        if at + length > len(view):
            raise TensorError("the octets end inside a text")
        items.append(bytes(view[at : at + length]))
        at += length
    array = np.empty(len(items), dtype=np.object_)
    array[:] = items
    return array


def _unpack_numbers(kind: Any, data: bytes | memoryview) -> np.ndarray:
    dtype = np.dtype(kind).newbyteorder("<")
    if len(data) % dtype.itemsize:
        raise TensorError(f"{len(data)} octets are no whole number of elements")
    if kind is np.bool_ and len(data) and np.frombuffer(data, dtype=np.uint8).max() > 1:
        raise TensorError("a boolean is 0 or 1")
    return np.frombuffer(data, dtype=dtype)
