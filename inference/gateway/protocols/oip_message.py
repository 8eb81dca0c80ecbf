"""The messages of the Open Inference Protocol's gRPC form, from and to what /v2 works with.

A request's tensors lie in `raw_input_contents` or, typed, in each tensor's `contents`. Both
become octets behind a document, as a binary request of /v2 has them, so that there is one check
of values for all of them. Answers are always raw, as Triton's are.

Source: Open Inference Protocol, gRPC; Triton, grpc_service.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message
from tritonclient.grpc import service_pb2

from inference.gateway.config import MESSAGE_FIELDS_MAX
from inference.gateway.protocols.oip_answer import InferAnswer
from inference.gateway.protocols.oip_request import invalid
from marketplace.core.errors import BadRequestError, InvalidInputError
from strongroom.interface import MAX_BATCH_SIZE

M = TypeVar("M", bound=Message)

# By datatype: the member of `contents`, what it holds on the wire, and what the tensor holds.
_CONTENTS: Mapping[str, tuple[str, Any, Any]] = {
    "BOOL": ("bool_contents", np.bool_, np.bool_),
    "INT8": ("int_contents", np.int32, np.int8),
    "INT16": ("int_contents", np.int32, np.int16),
    "INT32": ("int_contents", np.int32, np.int32),
    "INT64": ("int64_contents", np.int64, np.int64),
    "UINT8": ("uint_contents", np.uint32, np.uint8),
    "UINT16": ("uint_contents", np.uint32, np.uint16),
    "UINT32": ("uint_contents", np.uint32, np.uint32),
    "UINT64": ("uint64_contents", np.uint64, np.uint64),
    "FP32": ("fp32_contents", np.float32, np.float32),
    "FP64": ("fp64_contents", np.float64, np.float64),
    "BYTES": ("bytes_contents", np.object_, np.object_),
}
_PARAMETER_MEMBERS = {bool: "bool_param", int: "int64_param", str: "string_param"}
_SIZE = "binary_data_size"
# Of the HTTP form; here all is binary, whatever they say.
_OF_HTTP = frozenset({_SIZE, "binary_data", "binary_data_output"})
# Of a stream only: whether a last response may be empty, to say that it is the last. None of
# ours needs to be: whatever is known at the end only is in it.
_EMPTY_FINAL = "triton_enable_empty_final_response"
_SHOWN_CHARS = 64
_TEXT_LENGTH = struct.Struct("<I")
# How many octets follow the tag, by its wire type. Source: protobuf, "Encoding".
_FIXED_SIZES = {1: 8, 5: 4}
_VARINT, _LENGTH_DELIMITED = 0, 2
_VARINT_BYTES_MAX = 10


def parse(kind: type[M], body: bytes) -> M:
    """Decode a message.

    Its fields are counted first: two octets can make a tensor of a hundred in memory.

    Raises:
        BadRequestError: It is none, or has more fields than any that is meant.
    """
    try:
        count = _count_fields(body)
        if count > MESSAGE_FIELDS_MAX:
            raise BadRequestError(f"A message has at most {MESSAGE_FIELDS_MAX} fields.")
        return kind.FromString(body)
    except (DecodeError, IndexError):
        raise BadRequestError("The message cannot be decoded.") from None


def to_canonical(body: bytes) -> bytes:
    """The same request in the one form that a retry has too: maps have no order of their own.

    Raises:
        BadRequestError: It is no request.
    """
    return parse(service_pb2.ModelInferRequest, body).SerializeToString(deterministic=True)


def to_reference(name: str, version: str) -> str:
    """One text of a model's name and of what its version's field says."""
    if not version or version[0] in ":@":
        return name + version
    return f"{name}:{version}"


def to_document(message: Any, *, is_streamed: bool) -> tuple[dict[str, Any], memoryview]:
    """A request as /v2 has it: its JSON part, and the octets behind that.

    Raises:
        InvalidInputError: Naming what is wrong with the form.
    """
    parameters = _read_parameters(message, "")
    if is_streamed and type(parameters.get(_EMPTY_FINAL)) is bool:
        del parameters[_EMPTY_FINAL]
    inputs, octets = _read_inputs(message)
    outputs = [
        {"name": one.name, "parameters": _read_parameters(one, f"/outputs/{index}")}
        for index, one in enumerate(message.outputs)
    ]
    document: dict[str, Any] = {
        "parameters": {**parameters, "binary_data_output": True},
        "inputs": inputs,
        "outputs": outputs,
    }
    if message.id:
        document["id"] = message.id
    return document, memoryview(octets)


def to_response(answer: InferAnswer, parameters: Mapping[str, bool | int | str]) -> Any:
    """The message of an answer."""
    document = answer.document
    message = service_pb2.ModelInferResponse(
        model_name=document["model_name"],
        model_version=document["model_version"],
        id=document.get("id", ""),
        outputs=[
            {"name": one["name"], "datatype": one["datatype"], "shape": one["shape"]}
            for one in document["outputs"]
        ],
        raw_output_contents=[bytes(one) for one in answer.octets],
    )
    for name, value in parameters.items():
        setattr(message.parameters[name], _PARAMETER_MEMBERS[type(value)], value)
    return message


def _count_fields(body: bytes) -> int:
    """How many fields lie side by side, or a number above the limit."""
    at, count = 0, 0
    while at < len(body) and count <= MESSAGE_FIELDS_MAX:
        tag, at = _read_varint(body, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _read_varint(body, at)
        elif kind == _LENGTH_DELIMITED:
            length, at = _read_varint(body, at)
            at += length
        elif kind in _FIXED_SIZES:
            at += _FIXED_SIZES[kind]
        else:
            raise DecodeError
        count += 1
    return count


def _read_varint(body: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(_VARINT_BYTES_MAX):
        octet = body[at + shift]
        value |= (octet & 0x7F) << (7 * shift)
        if octet < 0x80:
            return value, at + shift + 1
    raise DecodeError


def _read_parameters(holder: Any, place: str) -> dict[str, Any]:
    """The parameters of a request, an input or an output; one without a value is None."""
    parameters: dict[str, Any] = {}
    for name, parameter in holder.parameters.items():
        if name in _OF_HTTP:
            raise invalid(f"{place}/parameters", f"The parameter {name} is for HTTP only.")
        member = parameter.WhichOneof("parameter_choice")
        parameters[name] = None if member is None else getattr(parameter, member)
    return parameters


def _read_inputs(message: Any) -> tuple[list[dict[str, Any]], bytes]:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        detail = f"There are {len(raw)} raw contents for {len(message.inputs)} inputs."
        raise invalid("/raw_input_contents", f"{detail} Send one for each, or none.")
    inputs, parts = [], []
    for index, tensor in enumerate(message.inputs):
        place = f"/inputs/{index}"
        if raw and tensor.contents.ListFields():
            shown = tensor.name[:_SHOWN_CHARS]
            raise invalid(f"{place}/contents", f"Input {shown!r} has contents beside raw ones.")
        data = raw[index] if raw else _pack_contents(tensor, place)
        parameters = _read_parameters(tensor, place)
        inputs.append(
            {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "datatype": tensor.datatype,
                "parameters": {**parameters, _SIZE: len(data)},
            }
        )
        parts.append(data)
    return inputs, b"".join(parts)


def _pack_contents(tensor: Any, place: str) -> bytes:
    """Typed values as the octets that a raw input would have been."""
    member, wire_kind, kind = _CONTENTS.get(tensor.datatype, ("", None, None))
    filled = [field.name for field, _ in tensor.contents.ListFields()]
    if not filled:
        return b""
    if filled != [member]:
        detail = f"{tensor.datatype[:_SHOWN_CHARS]} goes into {member or 'raw contents'} only."
        raise _refuse(tensor, place, detail)
    values = getattr(tensor.contents, member)
    if kind is np.object_:
        return _pack_texts(tensor, values, place)
    array = np.fromiter(values, wire_kind, len(values))
    narrow = array.astype(kind).astype("<" + np.dtype(kind).str[1:], copy=False)
    if kind is not wire_kind and not np.array_equal(narrow, array):
        raise _refuse(tensor, place, f"A value is none of {tensor.datatype}.")
    return narrow.tobytes()


def _pack_texts(tensor: Any, values: Any, place: str) -> bytes:
    if len(values) > MAX_BATCH_SIZE:
        raise _refuse(tensor, place, f"At most {MAX_BATCH_SIZE} texts are allowed.")
    return b"".join(part for one in values for part in (_TEXT_LENGTH.pack(len(one)), one))


def _refuse(tensor: Any, place: str, detail: str) -> InvalidInputError:
    return invalid(f"{place}/contents", f"Input {tensor.name[:_SHOWN_CHARS]!r}: {detail}")
