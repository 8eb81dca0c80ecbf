"""An ONNX graph, checked before ONNX Runtime reads it.

What a graph can do wrong: name files to read, operators that live in a library of the
creator's, sizes that exhaust the memory, and functions that unfold into billions of
nodes. Each is refused here, from the bytes, without a protobuf library.

Source: onnx.proto; ONNX "External data"; CVE-2022-25882, CVE-2024-27318, CVE-2025-51480
(paths in external data).
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from inference.artifact import onnx_proto as proto
from inference.artifact.errors import ArtifactError, shown
from inference.artifact.onnx_proto import Message
from inference.artifact.protobuf import Budget

# Operators of these sets are built into ONNX Runtime. Any other needs a library file.
ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
# Built in, but they call Python, another framework, or a compiled file.
REFUSED_OPERATORS = frozenset(
    {"EPContext", "PythonOp", "PythonOpGrad", "ATen", "ATenGrad", "ExternalFunction"}
)
# A 70-billion-parameter export has about 20,000 nodes.
MAX_NODES = 200_000
# Bodies of If, Loop and Scan inside each other; exporters reach three.
MAX_GRAPH_DEPTH = 12
MAX_FUNCTIONS = 4_096
MAX_RANK = 16
# The sets of today end at 26; a version far behind that is no version.
MAX_OPSET = 1_000
# Lengths that are multiplied in 64 bits must not wrap round, in whatever order: a length of
# zero beside them makes the product small and the way to it no safer.
MAX_ELEMENTS = 2**63 - 1

# TensorProto.DataType: bits of an element, and the field that may hold it instead of
# raw_data (see onnx.proto, TensorProto).
_BITS: Mapping[int, tuple[int, str]] = {
    1: (32, "float_data"),
    2: (8, "int32_data"),
    3: (8, "int32_data"),
    4: (16, "int32_data"),
    5: (16, "int32_data"),
    6: (32, "int32_data"),
    7: (64, "int64_data"),
    9: (8, "int32_data"),
    10: (16, "int32_data"),
    11: (64, "double_data"),
    12: (32, "uint64_data"),
    13: (64, "uint64_data"),
    16: (16, "int32_data"),
    17: (8, "int32_data"),
    18: (8, "int32_data"),
    19: (8, "int32_data"),
    20: (8, "int32_data"),
    21: (4, "int32_data"),
    22: (4, "int32_data"),
}
_STRING = 8
_TYPED_FIELDS = (
    "float_data",
    "int32_data",
    "string_data",
    "int64_data",
    "double_data",
    "uint64_data",
)
# What may go in and out, in Triton's words.
DATATYPES: Mapping[int, str] = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    _STRING: "BYTES",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
    16: "BF16",
}
# A sequence, a map, a complex number: harmless as long as the interface leaves it out.
NOT_SENDABLE = "a type that cannot be sent"


@dataclass(frozen=True, slots=True)
class GraphValue:
    """An input or output. A length of None is free; a shape of None is not stated."""

    name: str
    datatype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """What the check found.

    `external` maps the location that the graph names to the manifest's path of the file.
    """

    inputs: tuple[GraphValue, ...]
    outputs: tuple[GraphValue, ...]
    external: Mapping[str, str]
    opsets: Mapping[str, int]
    node_count: int
    parameter_count: int


def parse_model(
    data: memoryview, *, path: str = "model.onnx", external_sizes: Mapping[str, int] | None = None
) -> OnnxModel:
    """Check a graph and describe it.

    Args:
        data: The plain file.
        path: Its path in the manifest; external data is named relative to its folder.
        external_sizes: Path and size in bytes of every file of external data.

    Raises:
        ArtifactError: With a code that starts with `onnx_`.
    """
    check = _Check(path, external_sizes or {})
    model = Message(data, proto.MODEL, "model", check.budget)
    graphs = model.views("graph")
    if not graphs:
        raise ArtifactError("onnx_malformed", "The model has no graph.")
    opsets = check.read_opsets(model.views("opset_import"))
    check.read_functions(model.views("functions"))
    graph = check.read_graph(graphs[0], depth=0)
    check.count_expanded(graph.calls)
    given = set(graph.initializers)
    return OnnxModel(
        inputs=tuple(
            check.read_value(one) for one in graph.inputs if check.name_of(one) not in given
        ),
        outputs=tuple(check.read_value(one) for one in graph.outputs),
        external=dict(check.external),
        opsets=opsets,
        node_count=check.node_count,
        parameter_count=check.parameter_count,
    )


@dataclass(slots=True)
class _Graph:
    """Parts of a graph, and how often each operator that may be a function is called."""

    inputs: Sequence[memoryview] = ()
    outputs: Sequence[memoryview] = ()
    initializers: list[str] = field(default_factory=list)
    calls: dict[tuple[str, str], int] = field(default_factory=dict)

    def call(self, operator: tuple[str, str]) -> None:
        self.calls[operator] = self.calls.get(operator, 0) + 1


class _Check:
    """One walk over one file, with what it has counted so far."""

    def __init__(self, path: str, external_sizes: Mapping[str, int]) -> None:
        self.budget = Budget(proto.MAX_FIELDS)
        self.folder = posixpath.dirname(path)
        self.external_sizes = external_sizes
        self.external: dict[str, str] = {}
        self.external_used: dict[str, int] = {}
        self.functions: dict[tuple[str, str], _Graph] = {}
        self.node_count = 0
        self.parameter_count = 0

    def read(self, data: memoryview, table: proto.Table, what: str) -> Message:
        return Message(data, table, what, self.budget)

    def read_opsets(self, entries: Sequence[memoryview]) -> dict[str, int]:
        opsets: dict[str, int] = {}
        for entry in entries:
            message = self.read(entry, proto.OPERATOR_SET, "operator set")
            domain = message.text("domain")
            if domain in opsets:
                raise ArtifactError("onnx_malformed", f"The domain {shown(domain)} stands twice.")
            version = message.number("version")
            if not 1 <= version <= MAX_OPSET:
                detail = f"The operator set {shown(domain)} has the version {version}."
                raise ArtifactError("onnx_malformed", detail)
            opsets[domain] = version
        return opsets

    def read_functions(self, entries: Sequence[memoryview]) -> None:
        if len(entries) > MAX_FUNCTIONS:
            detail = f"The model has {len(entries)} functions; {MAX_FUNCTIONS} are allowed."
            raise ArtifactError("onnx_too_many_nodes", detail)
        messages = [self.read(entry, proto.FUNCTION, "function") for entry in entries]
        # All names first: functions may call those that stand behind them.
        for message in messages:
            key = (_domain(message), message.text("name"))
            if key in self.functions or message.text("overload"):
                detail = f"The function {shown(key[1])} stands twice."
                raise ArtifactError("onnx_malformed", detail)
            self.functions[key] = _Graph()
        for message, body in zip(messages, self.functions.values(), strict=True):
            self.read_opsets(message.views("opset_import"))
            self.read_nodes(message.views("node"), body, depth=0)
            for attribute in message.views("attribute_proto"):
                self.read_attribute(attribute, body, depth=0)

    def read_graph(self, data: memoryview, depth: int) -> _Graph:
        if depth > MAX_GRAPH_DEPTH:
            detail = f"Graphs are nested deeper than {MAX_GRAPH_DEPTH} levels."
            raise ArtifactError("onnx_too_deep", detail)
        message = self.read(data, proto.GRAPH, "graph")
        graph = _Graph(message.views("input"), message.views("output"))
        for one in message.views("initializer"):
            graph.initializers.append(self.read_tensor(one, is_initializer=True))
        if len(set(graph.initializers)) != len(graph.initializers):
            # Which of the two counts is each reader's own choice.
            raise ArtifactError("onnx_malformed", "Two initializers have the same name.")
        self.read_nodes(message.views("node"), graph, depth)
        return graph

    def read_nodes(self, nodes: Sequence[memoryview], graph: _Graph, depth: int) -> None:
        self.node_count += len(nodes)
        if self.node_count > MAX_NODES:
            detail = f"The model has more than {MAX_NODES} nodes."
            raise ArtifactError("onnx_too_many_nodes", detail)
        for data in nodes:
            node = self.read(data, proto.NODE, "node")
            operator = (_domain(node), node.text("op_type"))
            self.check_operator(operator)
            graph.call(operator)
            for attribute in node.views("attribute"):
                self.read_attribute(attribute, graph, depth)

    def check_operator(self, operator: tuple[str, str]) -> None:
        domain, name = operator
        if operator in self.functions:
            return
        if domain not in ALLOWED_DOMAINS:
            detail = f"The operator {shown(name)} is of the domain {shown(domain)}."
            raise ArtifactError("onnx_custom_op", detail)
        if name in REFUSED_OPERATORS:
            raise ArtifactError("onnx_custom_op", f"The operator {shown(name)} is not accepted.")

    def read_attribute(self, data: memoryview, graph: _Graph, depth: int) -> None:
        message = self.read(data, proto.ATTRIBUTE, "attribute")
        for one in (*message.views("t"), *message.views("tensors")):
            self.read_tensor(one, is_initializer=False)
        for one in (*message.views("g"), *message.views("graphs")):
            for operator, count in self.read_graph(one, depth + 1).calls.items():
                graph.calls[operator] = graph.calls.get(operator, 0) + count

    def read_tensor(self, data: memoryview, *, is_initializer: bool) -> str:
        """Check that a tensor holds exactly what its shape claims; returns its name."""
        message = self.read(data, proto.TENSOR, "tensor")
        name = message.text("name")
        shape = message.numbers("dims", self.budget)
        if len(shape) > MAX_RANK or any(length < 0 for length in shape):
            detail = f"{shown(name)} has a shape that no tensor has."
            raise ArtifactError("onnx_initializer_size", detail)
        if math.prod(length for length in shape if length) > MAX_ELEMENTS:
            detail = f"{shown(name)} has more elements than can be counted."
            raise ArtifactError("onnx_initializer_size", detail)
        count = math.prod(shape)
        if message.number("data_location"):
            if not is_initializer:
                detail = f"{shown(name)} is an attribute; only initializers may be external."
                raise ArtifactError("onnx_external_data", detail)
            self.check_external(message, name, count)
        elif message.has("external_data"):
            detail = f"{shown(name)} names a file but is not marked as external."
            raise ArtifactError("onnx_external_data", detail)
        else:
            _check_inline(message, name, count)
        self.parameter_count += count if is_initializer else 0
        return name

    def check_external(self, message: Message, name: str, count: int) -> None:
        entries: dict[str, str] = {}
        for data in message.views("external_data"):
            entry = self.read(data, proto.STRING_ENTRY, "external data entry")
            key = entry.text("key")
            if key in entries or key not in {"location", "offset", "length", "checksum"}:
                raise ArtifactError(
                    "onnx_external_data", f"{shown(name)} has the entry {shown(key)}."
                )
            entries[key] = entry.text("value")
        if message.has("raw_data") or any(message.has(one) for one in _TYPED_FIELDS):
            raise ArtifactError("onnx_external_data", f"{shown(name)} is external and inline.")
        location = entries.get("location", "")
        path = posixpath.normpath(posixpath.join(self.folder, location))
        # A manifest's path has no ".." and no leading "/", so membership would do; a
        # location that needs tidying up first is refused all the same.
        if path not in self.external_sizes or ".." in location:
            detail = f"{shown(name)} is in {shown(location)}, which is no file of the manifest."
            raise ArtifactError("onnx_external_data", detail)
        size_bytes = _size_bytes(message.number("data_type"), name, count)
        offset = _whole_number(entries.get("offset", "0"), name)
        length = _whole_number(entries.get("length", str(size_bytes)), name)
        if length != size_bytes or offset + length > self.external_sizes[path]:
            detail = f"{shown(name)} does not lie inside {shown(location)}."
            raise ArtifactError("onnx_external_data", detail)
        used = self.external_used[path] = self.external_used.get(path, 0) + length
        if used > self.external_sizes[path]:
            # Ten thousand tensors over the same gigabyte would each take their own.
            detail = f"Tensors share bytes of {shown(location)}."
            raise ArtifactError("onnx_external_data", detail)
        self.external[location] = path

    def count_expanded(self, calls: Mapping[tuple[str, str], int]) -> None:
        """Refuse functions that call each other in a circle or unfold beyond the limit."""
        sizes: dict[tuple[str, str], int] = {}
        for key in _callees_first(self.functions):
            body = self.functions[key].calls
            size = sum(count * sizes.get(one, 1) for one, count in body.items())
            sizes[key] = min(size, MAX_NODES + 1)
        total = sum(count * sizes.get(one, 1) for one, count in calls.items())
        if total > MAX_NODES:
            detail = f"The functions unfold into more than {MAX_NODES} nodes."
            raise ArtifactError("onnx_too_many_nodes", detail)

    def name_of(self, data: memoryview) -> str:
        return self.read(data, proto.VALUE_INFO, "value").text("name")

    def read_value(self, data: memoryview) -> GraphValue:
        value = self.read(data, proto.VALUE_INFO, "value")
        name = value.text("name")
        types = value.views("type")
        kinds = self.read(types[0], proto.TYPE, "type").views("tensor_type") if types else []
        if not kinds:
            return GraphValue(name, NOT_SENDABLE, None)
        tensor = self.read(kinds[0], proto.TENSOR_TYPE, "tensor type")
        datatype = DATATYPES.get(tensor.number("elem_type"), NOT_SENDABLE)
        shapes = tensor.views("shape")
        return GraphValue(name, datatype, self.read_shape(shapes[0]) if shapes else None)

    def read_shape(self, data: memoryview) -> tuple[int | None, ...]:
        lengths: list[int | None] = []
        for dim in self.read(data, proto.SHAPE, "shape").views("dim"):
            length = self.read(dim, proto.DIMENSION, "dimension").number("dim_value", -1)
            # Some exporters write 0 or -1 for "free".
            lengths.append(length if length > 0 else None)
        return tuple(lengths)


def _domain(message: Message) -> str:
    domain = message.text("domain")
    return "" if domain == "ai.onnx" else domain


def _size_bytes(data_type: int, name: str, count: int) -> int:
    if data_type not in _BITS:
        detail = f"{shown(name)} has the element type {data_type}, which is not accepted."
        raise ArtifactError("onnx_initializer_type", detail)
    return (count * _BITS[data_type][0] + 7) // 8


def _check_inline(message: Message, name: str, count: int) -> None:
    data_type = message.number("data_type")
    fields = [one for one in (*_TYPED_FIELDS, "raw_data") if message.has(one)]
    if len(fields) > 1:
        raise ArtifactError("onnx_initializer_size", f"{shown(name)} holds its data twice.")
    if data_type == _STRING:
        held, wanted, allowed = len(message.views("string_data")), count, "string_data"
    else:
        wanted = _size_bytes(data_type, name, count)
        allowed = _BITS[data_type][1]
        if fields == ["raw_data"]:
            held, allowed = len(message.views("raw_data")[0]), "raw_data"
        else:
            bits = _BITS[data_type][0]
            wanted = count if bits >= 8 else wanted
            held = sum(_count_elements(allowed, one) for one in message.values(allowed))
    if fields not in ([], [allowed]) or held != wanted:
        detail = f"{shown(name)} claims {count} elements and holds another number."
        raise ArtifactError("onnx_initializer_size", detail)


def _count_elements(field_name: str, value: int | memoryview) -> int:
    if isinstance(value, int):
        return 1
    if field_name in ("float_data", "double_data"):
        width = 4 if field_name == "float_data" else 8
        return len(value) // width if len(value) % width == 0 else -1
    # The last octet of each varint, and no other, has its top bit clear.
    return int(np.count_nonzero(np.frombuffer(value, np.uint8) < 0x80))


def _whole_number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ArtifactError("onnx_external_data", f"{shown(name)} has an offset that is no number.")
    return int(text)


def _callees_first(functions: Mapping[tuple[str, str], _Graph]) -> Iterator[tuple[str, str]]:
    """Every function after all that it calls.

    Raises:
        ArtifactError: A function calls itself, by whatever way.
    """
    done: set[tuple[str, str]] = set()
    active: set[tuple[str, str]] = set()
    for root in functions:
        # An explicit stack: thousands of functions may call each other in a chain.
        stack = [(root, iter(functions[root].calls))]
        if root in done:
            continue
        active.add(root)
        while stack:
            key, callees = stack[-1]
            callee = next((one for one in callees if one in functions and one not in done), None)
            if callee is None:
                stack.pop()
                active.discard(key)
                done.add(key)
                yield key
            elif callee in active:
                detail = f"The function {shown(callee[1])} calls itself."
                raise ArtifactError("onnx_function_recursion", detail)
            else:
                active.add(callee)
                stack.append((callee, iter(functions[callee].calls)))
