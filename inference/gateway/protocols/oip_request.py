"""What an inference request of the Open Inference Protocol asks for, checked.

A tensor's values stand in the JSON part, or as octets behind it. Both are held to the same
interface, but not in the same way:

- Texts in either form become rows that go through `Interface.check_input` as those of /v1 do.
  A text is a Python object on every way, and a row has one of them.
- Numbers and truth values in the JSON part are looked at all together and become one array.
  Where one of them does not fit, they go the way of the texts, to be told which and why.
- Numbers and truth values that came as octets stay one numpy array over the body: smallest and
  largest element are found at memory speed, and nothing is copied until it is sent to Triton.
  1 MiB of FP32 takes 0.1 ms to check that way; as a Python list it takes 17 ms, during which
  the event loop serves nobody else. Only an element that does not fit becomes a Python value, so
  that the interface itself says what is wrong with it.

Source: Open Inference Protocol, REST; Triton, binary tensor data, classification, shared
memory and sequence extensions.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from inference.gateway.config import TENSORS_MAX
from inference.gateway.http import Headers
from inference.triton import tensors
from inference.triton.errors import TensorError
from inference.triton.tensors import Tensor
from marketplace.core.errors import FieldError, InvalidInputError
from strongroom.errors import InputError
from strongroom.interface import (
    FLOAT_DATATYPES,
    MAX_TENSOR_ELEMENTS,
    Input,
    Interface,
    Output,
)

LENGTH_HEADER = "inference-header-content-length"
_SIZE = "binary_data_size"
_MEMBERS = frozenset({"id", "parameters", "inputs", "outputs"})
_TENSOR_MEMBERS = frozenset({"name", "shape", "datatype", "parameters", "data"})
# They change what is answered, or where it goes; silence would be mistaken for consent.
_UNSUPPORTED = frozenset(
    {
        "classification",
        "sequence_id",
        "shared_memory_region",
        "shared_memory_byte_size",
        "shared_memory_offset",
    }
)
# Triton keeps these names for itself, and its clients refuse to send them.
_RESERVED_PREFIX = "triton_"
_ID_LENGTH_MAX = 256
# No body has a length of more digits than this.
_LENGTH_DIGITS_MAX = 19
_SHOWN_CHARS = 64
_TEXT_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """An output that the answer shall have, and in which form."""

    output: Output
    is_binary: bool


def read_json_length(headers: Headers, body_bytes: int) -> int | None:
    """How many bytes of the body are JSON, if the header says that octets may follow.

    Digits are all it may be made of: where one server reads "12 " or "+12" and the next one
    reads 0, the same bytes are two different requests.

    Raises:
        InvalidInputError: It is no length, zero, or more than the body has.
    """
    if LENGTH_HEADER not in headers:
        return None
    text = headers.get(LENGTH_HEADER) or ""
    is_number = text.isascii() and text.isdigit() and len(text) <= _LENGTH_DIGITS_MAX
    if not is_number or not 1 <= int(text) <= body_bytes:
        raise invalid(
            "",
            "Inference-Header-Content-Length must be the length of the JSON part in bytes,"
            f" from 1 to the {body_bytes} of the body; requests without JSON are not offered.",
        )
    return int(text)


def read_document(document: Any) -> dict[str, Any]:
    """The JSON part, as far as it can be judged without the model.

    Raises:
        InvalidInputError: Naming the member.
    """
    if not isinstance(document, dict):
        raise invalid("", "The body must be an object with the member `inputs`.")
    for name in document:
        if name not in _MEMBERS:
            raise invalid("", f"The member {name[:_SHOWN_CHARS]!r} is not known here.")
    given = document.get("inputs")
    if type(given) is not list:
        raise invalid("/inputs", "Is required: a list of tensors.")
    if len(given) > TENSORS_MAX:
        raise invalid("/inputs", f"At most {TENSORS_MAX} tensors are allowed.")
    name = document.get("id")
    is_name = type(name) is str and len(name) <= _ID_LENGTH_MAX and "\x00" not in name
    if name is not None and not is_name:
        raise invalid("/id", f"Must be a text of at most {_ID_LENGTH_MAX} characters, none NUL.")
    return document


def read_timeout_s(document: Mapping[str, Any]) -> float:
    """The parameter `timeout`, which is in microseconds; 0 is none.

    Raises:
        InvalidInputError: It is no such number.
    """
    timeout_us = _read_parameters(document, "").get("timeout", 0)
    if type(timeout_us) is not int or timeout_us < 0:
        raise invalid("/parameters/timeout", "Must be a whole number of microseconds.")
    return timeout_us / 1e6 if timeout_us else math.inf


def choose_outputs(interface: Interface, document: Mapping[str, Any]) -> list[WantedOutput]:
    """The outputs that a document asks for, in its order; all of them if it names none.

    Raises:
        InvalidInputError: Naming the output.
    """
    offered = {one.name: one for one in interface.visible_outputs if one.kind != "label"}
    if not offered:
        raise invalid("", "The model answers labels, which are no tensors: call it under /v1.")
    parameters = _read_parameters(document, "")
    _refuse_size(parameters, "")
    is_binary = _read_flag(parameters, "binary_data_output", "", default=False)
    wanted = document.get("outputs")
    if wanted is None or wanted == []:
        return [WantedOutput(one, is_binary) for one in offered.values()]
    if type(wanted) is not list or len(wanted) > TENSORS_MAX:
        raise invalid("/outputs", f"Must be a list of at most {TENSORS_MAX} outputs.")
    chosen: dict[str, WantedOutput] = {}
    for index, one in enumerate(wanted):
        place = f"/outputs/{index}"
        name = one.get("name") if isinstance(one, dict) else None
        if not isinstance(name, str) or name not in offered:
            shown = str(name)[:_SHOWN_CHARS]
            raise invalid(place, f"The model has no output {shown!r}.")
        if name in chosen:
            raise invalid(place, f"The output {name!r} is asked for twice.")
        parameters = _read_parameters(one, place)
        _refuse_size(parameters, place)
        is_this_binary = _read_flag(parameters, "binary_data", place, default=is_binary)
        chosen[name] = WantedOutput(offered[name], is_this_binary)
    return list(chosen.values())


def read_tensors(
    interface: Interface, given: Sequence[Any], octets: memoryview | None
) -> list[Tensor]:
    """One tensor for each input of the model, in its order, checked and with defaults.

    Args:
        interface: Says what each value is.
        given: The inputs of the document.
        octets: What follows the JSON part; None if the request has no header that says so.

    Raises:
        InvalidInputError: Naming the tensor.
    """
    known = interface.inputs_by_name
    by_name: dict[str, list[Any]] = {}
    arrays: dict[str, Tensor] = {}
    reader = _OctetReader(octets)
    count = -1
    for index, tensor in enumerate(given):
        place = f"/inputs/{index}"
        name = _read_name(tensor, place)
        if name not in known:
            raise invalid(f"{place}/name", f"The model has no input {name[:_SHOWN_CHARS]!r}.")
        if name in by_name or name in arrays:
            raise invalid(f"{place}/name", f"The input {name!r} is given twice.")
        one = known[name]
        shape = _read_shape(one, tensor, place, interface.batch.max_size)
        if count not in (-1, shape[0]):
            raise invalid(f"{place}/shape", f"Input {name!r} has {shape[0]} rows, not {count}.")
        count = shape[0]
        data = _take_octets(one, tensor, place, reader)
        if data is None:
            elements = _read_elements(one, tensor.get("data"), shape, place)
            if one.datatype != "BYTES" and one.allows_all(elements):
                array = np.array(elements, tensors.NUMPY_TYPES[one.datatype]).reshape(shape)
                arrays[name] = Tensor(name, one.datatype, array.shape, array)
            else:
                by_name[name] = _split(one, elements, shape)
        elif one.datatype == "BYTES":
            by_name[name] = _read_texts(one, data, count, place)
        else:
            arrays[name] = _read_array(one, data, shape, place)
    reader.finish()
    return _fill(interface, by_name, arrays, max(count, 1))


def invalid(pointer: str, detail: str) -> InvalidInputError:
    """The refusal of one place in the request."""
    return InvalidInputError(detail, errors=[FieldError(pointer=pointer, detail=detail)])


class _OctetReader:
    """Gives out what follows the JSON part: each byte once, in the order of the inputs."""

    def __init__(self, octets: memoryview | None) -> None:
        self._octets = octets
        self._at = 0

    def take(self, size_bytes: int, one: Input, place: str) -> memoryview:
        if self._octets is None:
            detail = f"Input {one.name!r} has {_SIZE}, which needs the header {LENGTH_HEADER}."
            raise invalid(f"{place}/parameters/{_SIZE}", detail)
        end = self._at + size_bytes
        if end > len(self._octets):
            detail = f"Input {one.name!r} has a {_SIZE} beyond the end of the body."
            raise invalid(f"{place}/parameters/{_SIZE}", detail)
        taken = self._octets[self._at : end]
        self._at = end
        return taken

    def finish(self) -> None:
        if self._octets is not None and self._at != len(self._octets):
            raise invalid("/inputs", "The body has more bytes than the inputs account for.")


def _fill(
    interface: Interface, by_name: Mapping[str, list[Any]], arrays: Mapping[str, Tensor], count: int
) -> list[Tensor]:
    """Check what came as values, add what was left out, and put all into order."""
    made = dict(arrays)
    left = tuple(one for one in interface.inputs if one.name not in made)
    if left:
        rest = replace(interface, inputs=left)
        rows = _check_rows(rest, by_name, count)
        made |= {one.name: one for one in tensors.encode(rest, rows)}
    return [made[one.name] for one in interface.inputs]


def _check_rows(
    interface: Interface, by_name: Mapping[str, list[Any]], count: int
) -> list[dict[str, Any]]:
    checked = []
    for index in range(count):
        row = {name: values[index] for name, values in by_name.items()}
        try:
            checked.append(interface.check_input(row, pointer=""))
        except InputError as error:
            fault = error.errors[0]
            name, _, path = fault["pointer"][1:].partition("/")
            name = name.replace("~1", "/").replace("~0", "~")
            raise _refuse_value(name, index, path, fault["detail"]) from error
    return checked


def _refuse_value(name: str, row: int, path: str, detail: str) -> InvalidInputError:
    where = f"row {row}" + (f", at {path}" if path else "")
    return invalid("/inputs", f"Input {name!r}, {where}: {detail}")


def _read_name(tensor: Any, place: str) -> str:
    if not isinstance(tensor, dict):
        raise invalid(place, "An input is an object with name, shape, datatype and data.")
    name = tensor.get("name")
    if not isinstance(name, str):
        raise invalid(f"{place}/name", "Every input has a name.")
    for member in tensor:
        if member not in _TENSOR_MEMBERS:
            raise invalid(place, f"Input {name[:_SHOWN_CHARS]!r} has an unknown member.")
    return name


def _read_shape(one: Input, tensor: Mapping[str, Any], place: str, rows_max: int) -> list[int]:
    """The shape, small enough that its product means something."""
    if tensor.get("datatype") != one.datatype:
        detail = f"Input {one.name!r} has the datatype {one.datatype}."
        raise invalid(f"{place}/datatype", detail)
    shape = tensor.get("shape")
    if not _fits(shape, one.wire_shape):
        shown = ", ".join(map(str, (-1, *one.wire_shape)))
        detail = f"Input {one.name!r} has the shape [{shown}], with the batch first."
        raise invalid(f"{place}/shape", detail)
    assert isinstance(shape, list)
    rows = shape[0]
    if not 1 <= rows <= rows_max:
        detail = f"Input {one.name!r} has {rows} rows; the model takes 1 to {rows_max} at once."
        raise invalid(f"{place}/shape", detail)
    if math.prod(shape[1:]) > MAX_TENSOR_ELEMENTS:
        detail = f"Input {one.name!r} has more than {MAX_TENSOR_ELEMENTS} values."
        raise invalid(f"{place}/shape", detail)
    return shape


def _fits(shape: Any, expected: Sequence[int]) -> bool:
    if type(shape) is not list or len(shape) != len(expected) + 1:
        return False
    if any(type(length) is not int or length < 1 for length in shape):
        return False
    return all(length in (-1, got) for length, got in zip(expected, shape[1:], strict=True))


# --- Values behind the JSON part ---


def _take_octets(
    one: Input, tensor: Mapping[str, Any], place: str, reader: _OctetReader
) -> memoryview | None:
    """The octets of an input; None if its values stand in the JSON part."""
    parameters = _read_parameters(tensor, place)
    if _SIZE not in parameters:
        return None
    size_bytes = parameters[_SIZE]
    if type(size_bytes) is not int or size_bytes < 0:
        detail = f"Input {one.name!r}: {_SIZE} must be a number of bytes."
        raise invalid(f"{place}/parameters/{_SIZE}", detail)
    if "data" in tensor:
        raise invalid(place, f"Input {one.name!r} has data and {_SIZE}; send one of them.")
    return reader.take(size_bytes, one, place)


def _read_array(one: Input, data: memoryview, shape: list[int], place: str) -> Tensor:
    try:
        array = tensors.unpack(one.datatype, shape, data)
    except TensorError as error:
        raise invalid(place, f"Input {one.name!r}: {error.detail}.") from error
    at = _find_unfit(one, array)
    if at is not None:
        row, index = divmod(at, array.size // shape[0])
        path = str(index) if one.shape else ""
        raise _refuse_value(one.name, row, path, _explain(one, array.reshape(-1)[at].item()))
    return Tensor(one.name, one.datatype, array.shape, array)


def _find_unfit(one: Input, array: np.ndarray) -> int | None:
    """Where in the array, counted flat, an element stands that the interface forbids.

    The bounds are compared as Python numbers: numpy would round 2**63 - 1 to a float first.
    """
    if one.datatype == "BOOL":
        return None
    flat, places = array.reshape(-1), None
    with np.errstate(invalid="ignore"):  # A signalling NaN is a value like any other here.
        smallest, largest = flat.min().item(), flat.max().item()
    # NaN survives both searches, and infinity is what one of them finds.
    if one.datatype in FLOAT_DATATYPES and not (math.isfinite(smallest) and math.isfinite(largest)):
        is_finite = np.isfinite(flat)
        if not one.allow_nan:
            return int(is_finite.argmin())
        places = np.flatnonzero(is_finite)
        if not places.size:
            return None
        flat = flat[places]
        smallest, largest = flat.min().item(), flat.max().item()
    if one.minimum is not None and smallest < one.minimum:
        at = int(flat.argmin())
    elif one.maximum is not None and largest > one.maximum:
        at = int(flat.argmax())
    else:
        return None
    return at if places is None else int(places[at])


def _explain(one: Input, value: float) -> str:
    """What the interface itself says to such an element."""
    alone = Interface((replace(one, shape=()),), ())
    try:
        alone.check_input({one.name: value})
    except InputError as error:
        return error.errors[0]["detail"]
    raise AssertionError(f"{one.name}: the two checks of one value differ")


def _read_texts(one: Input, data: memoryview, count: int, place: str) -> list[str]:
    """One text a row. No more than those are looked for, however many the octets hold."""
    texts: list[str] = []
    at = 0
    while len(texts) < count and at + _TEXT_LENGTH.size <= len(data):
        (length,) = _TEXT_LENGTH.unpack_from(data, at)
        start, at = at + _TEXT_LENGTH.size, at + _TEXT_LENGTH.size + length
        try:
            texts.append(str(data[start:at], "utf-8"))
        except UnicodeDecodeError:
            raise _refuse_value(one.name, len(texts), "", "Is not UTF-8.") from None
    # A length that leads beyond the end is found here as well.
    if len(texts) != count or at != len(data):
        detail = f"Input {one.name!r}: the octets are not {count} texts, each after its length."
        raise invalid(place, detail)
    return texts


# --- Values in the JSON part ---


def _read_elements(one: Input, data: Any, shape: list[int], place: str) -> list[Any]:
    """All values in row-major order; whether they fit is not looked at."""
    elements = _flatten(data, shape)
    if elements is None:
        detail = f"Input {one.name!r}: the data does not fill the shape {shape}."
        raise invalid(f"{place}/data", detail)
    return elements


def _split(one: Input, elements: list[Any], shape: list[int]) -> list[Any]:
    """The values by row, each as /v1 would have it."""
    if not one.shape:
        return elements
    width = len(elements) // shape[0]
    parts = [elements[at : at + width] for at in range(0, len(elements), width)]
    if sum(length == -1 for length in one.shape) > 1:
        # With two variable axes a flat list has no shape.
        parts = [_nest(part, shape[1:]) for part in parts]
    return parts


def _flatten(data: Any, shape: Sequence[int]) -> list[Any] | None:
    """All elements of flat or nested data; None if they do not fill the shape."""
    if type(data) is not list:
        return None
    if data and type(data[0]) is not list:
        return data if len(data) == math.prod(shape) else None
    level: list[Any] = [data]
    for length in shape:
        if any(type(one) is not list or len(one) != length for one in level):
            return None
        level = list(chain.from_iterable(level))
    return level


def _nest(elements: list[Any], shape: Sequence[int]) -> list[Any]:
    for length in reversed(shape[1:]):
        elements = [elements[at : at + length] for at in range(0, len(elements), length)]
    return elements


# --- Parameters ---


def _read_parameters(holder: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """The parameters of a request, an input or an output; names of no meaning are let in."""
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise invalid(f"{place}/parameters", "Must be an object.")
    for name, value in parameters.items():
        shown = name[:_SHOWN_CHARS]
        if name in _UNSUPPORTED or name.startswith(_RESERVED_PREFIX):
            raise invalid(f"{place}/parameters", f"The parameter {shown} is not offered here.")
        if type(value) not in {str, int, float, bool}:
            detail = f"The parameter {shown} must be a text, a number, true or false."
            raise invalid(f"{place}/parameters", detail)
    return parameters


def _refuse_size(parameters: Mapping[str, Any], place: str) -> None:
    if _SIZE in parameters:
        raise invalid(f"{place}/parameters/{_SIZE}", f"Only an input has a {_SIZE}.")


def _read_flag(parameters: Mapping[str, Any], name: str, place: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise invalid(f"{place}/parameters/{name}", f"{name} must be true or false.")
    return value
