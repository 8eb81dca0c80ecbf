"""Read of an ONNX file what `strongroom` needs: inputs, outputs, and where its data is.

ONNX is a protocol buffer; the few fields used here are read from the wire format, so
that the command line needs no further package and large weights are stepped over
instead of being loaded.

Source: onnx.proto3 (field numbers); Protocol Buffers, "Encoding".
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from strongroom.errors import StrongroomError

# Deeper subgraphs are refused by the server as well.
MAX_DEPTH = 12
# What stays when the standard's names are taken away is code of the creator.
ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})

DATATYPES: Mapping[int, str] = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    9: "BOOL",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
}

# Message to field number to the message in it: the paths on which tensors, subgraphs
# and operators are found.
_CHILDREN: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse",
        23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
}
_MODEL_GRAPH = 7
_MODEL_FUNCTION = 25
_GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 5, 11, 12
_NODE_OPERATOR, _NODE_DOMAIN = 4, 7
_FUNCTION_NAME, _FUNCTION_DOMAIN = 1, 10
_TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 8, 13, 14


@dataclass(frozen=True, slots=True)
class GraphValue:
    """An input or output: its datatype (None if it cannot be sent) and its axes.

    A length of None is free; a shape of None is not stated.
    """

    name: str
    datatype: str | None
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What was found. `external` names the files that tensors lie in, as written."""

    inputs: tuple[GraphValue, ...]
    outputs: tuple[GraphValue, ...]
    external: tuple[str, ...]
    custom_operators: tuple[str, ...]


class OnnxError(StrongroomError):
    """The file is not a readable ONNX model."""

    def __init__(self, detail: str) -> None:
        super().__init__("onnx_malformed", detail)


def read_onnx(path: Path) -> OnnxFile:
    """Read a model file.

    Raises:
        OnnxError: `onnx_malformed`.
    """
    if not path.stat().st_size:
        raise OnnxError("The file is empty.")
    with path.open("rb") as file:
        # Unmapped when the last view of it is gone; weights are never read.
        return _read_model(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


def _read_model(data: memoryview) -> OnnxFile:
    graphs = _messages(data, _MODEL_GRAPH)
    if len(graphs) != 1:
        raise OnnxError("The file holds no ONNX graph.")
    walk = _Walk({_function_key(one) for one in _messages(data, _MODEL_FUNCTION)})
    walk.visit("model", data, 0)
    [graph] = graphs
    given = {_text(one, _TENSOR_NAME) for one in _messages(graph, _GRAPH_INITIALIZER)}
    inputs = [_read_value(one) for one in _messages(graph, _GRAPH_INPUT)]
    found = OnnxFile(
        inputs=tuple(one for one in inputs if one.name not in given),
        outputs=tuple(_read_value(one) for one in _messages(graph, _GRAPH_OUTPUT)),
        external=tuple(sorted(walk.external)),
        custom_operators=tuple(sorted(walk.custom_operators)),
    )
    if not found.outputs:
        raise OnnxError("The graph has no output.")
    return found


class _Walk:
    """Collects external data and foreign operators, wherever in the model they stand."""

    def __init__(self, functions: set[tuple[str, str]]) -> None:
        self.functions = functions
        self.external: set[str] = set()
        self.custom_operators: set[str] = set()

    def visit(self, kind: str, data: memoryview, depth: int) -> None:
        if depth > 4 * MAX_DEPTH:
            raise OnnxError(f"Graphs are nested deeper than {MAX_DEPTH} levels.")
        if kind == "tensor":
            self.visit_tensor(data)
            return
        if kind == "node":
            domain, operator = _text(data, _NODE_DOMAIN), _text(data, _NODE_OPERATOR)
            if domain not in ALLOWED_DOMAINS and (domain, operator) not in self.functions:
                self.custom_operators.add(f"{domain}::{operator}")
        children = _CHILDREN[kind]
        for number, value in _fields(data):
            if number in children and isinstance(value, memoryview):
                self.visit(children[number], value, depth + 1)

    def visit_tensor(self, data: memoryview) -> None:
        entries = _messages(data, _TENSOR_EXTERNAL)
        is_external = any(number == _TENSOR_LOCATION and value for number, value in _fields(data))
        if not entries and not is_external:
            return
        pairs = {_text(entry, 1): _text(entry, 2) for entry in entries}
        self.external.add(pairs.get("location", ""))


def _function_key(data: memoryview) -> tuple[str, str]:
    return _text(data, _FUNCTION_DOMAIN), _text(data, _FUNCTION_NAME)


def _read_value(data: memoryview) -> GraphValue:
    name = _text(data, 1)
    for type_message in _messages(data, 2):
        for tensor in _messages(type_message, 1):
            element = next((value for number, value in _fields(tensor) if number == 1), 0)
            datatype = DATATYPES.get(element) if isinstance(element, int) else None
            shapes = _messages(tensor, 2)
            return GraphValue(name, datatype, _read_shape(shapes[0]) if shapes else None)
    return GraphValue(name, None, None)


def _read_shape(data: memoryview) -> tuple[int | None, ...]:
    lengths: list[int | None] = []
    for axis in _messages(data, 1):
        length = next((value for number, value in _fields(axis) if number == 1), None)
        lengths.append(length if isinstance(length, int) and 0 < length < 2**63 else None)
    return tuple(lengths)


def _messages(data: memoryview, wanted: int) -> list[memoryview]:
    return [
        value
        for number, value in _fields(data)
        if number == wanted and isinstance(value, memoryview)
    ]


def _text(data: memoryview, wanted: int) -> str:
    found = _messages(data, wanted)
    return bytes(found[-1]).decode(errors="replace") if found else ""


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values: integers, or the bytes of a nested field."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        if not number:
            raise OnnxError("The file is not a protocol buffer.")
        if wire_type == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire_type == 2:
            size_bytes, at = _varint(data, at)
        elif wire_type in {1, 5}:
            size_bytes = 8 if wire_type == 1 else 4
        else:
            raise OnnxError("The file is not a protocol buffer.")
        if at + size_bytes > end:
            raise OnnxError("The file was cut.")
        yield number, data[at : at + size_bytes]
        at += size_bytes


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise OnnxError("The file was cut.")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise OnnxError("The file is not a protocol buffer.")
