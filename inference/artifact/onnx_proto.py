"""Which fields the messages of ONNX have, and a strict reader that uses the tables.

Strict means: a field that is not in the table is refused, and a field that may stand
once is refused the second time. ONNX Runtime reads the same bytes later with another
parser, which would skip the first and merge the second; here they have one meaning.

Source: onnx.proto (ONNX 1.23), compared with the package's descriptors in the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from inference.artifact.errors import ArtifactError
from inference.artifact.protobuf import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    Budget,
    WireError,
    read_fields,
    read_packed,
    signed,
)

# A node costs about ten fields. Decision forests are the largest honest files: they
# store one field for every number of every tree.
MAX_FIELDS = 4_000_000

# How a field is treated.
ONE = "one"  # Kept; a second one is refused.
MANY = "many"  # Kept, in order.
SKIP = "skip"  # May stand any number of times; changes nothing that is checked.
REFUSE = "refuse"  # Known, and refused: the value is its reason code.


@dataclass(frozen=True, slots=True)
class FieldRule:
    """One line of a table."""

    name: str
    wire_types: tuple[int, ...]
    treatment: str
    reason_code: str = ""


def _one(name: str, wire_type: int = BYTES) -> FieldRule:
    return FieldRule(name, (wire_type,), ONE)


def _many(name: str, *wire_types: int) -> FieldRule:
    return FieldRule(name, wire_types or (BYTES,), MANY)


def _skip(name: str, *wire_types: int) -> FieldRule:
    return FieldRule(name, wire_types or (BYTES,), SKIP)


def _refuse(name: str, reason_code: str) -> FieldRule:
    return FieldRule(name, (BYTES,), REFUSE, reason_code)


Table = Mapping[int, FieldRule]

MODEL: Table = {
    1: _one("ir_version", VARINT),
    2: _skip("producer_name"),
    3: _skip("producer_version"),
    4: _skip("domain"),
    5: _skip("model_version", VARINT),
    6: _skip("doc_string"),
    7: _one("graph"),
    8: _many("opset_import"),
    14: _skip("metadata_props"),
    # Graphs that run when a model is trained, which is never here.
    20: _refuse("training_info", "onnx_training_refused"),
    25: _many("functions"),
    26: _skip("configuration"),
}
OPERATOR_SET: Table = {1: _one("domain"), 2: _one("version", VARINT)}
GRAPH: Table = {
    1: _many("node"),
    2: _skip("name"),
    5: _many("initializer"),
    10: _skip("doc_string"),
    11: _many("input"),
    12: _many("output"),
    13: _skip("value_info"),
    14: _skip("quantization_annotation"),
    15: _refuse("sparse_initializer", "onnx_sparse_refused"),
    16: _skip("metadata_props"),
}
NODE: Table = {
    1: _skip("input"),
    2: _skip("output"),
    3: _skip("name"),
    4: _one("op_type"),
    5: _many("attribute"),
    6: _skip("doc_string"),
    7: _one("domain"),
    8: _one("overload"),
    9: _skip("metadata_props"),
    10: _skip("device_configurations"),
}
ATTRIBUTE: Table = {
    1: _one("name"),
    2: _skip("f", FIXED32),
    3: _skip("i", VARINT),
    4: _skip("s"),
    5: _one("t"),
    6: _one("g"),
    7: _skip("floats", FIXED32, BYTES),
    8: _skip("ints", VARINT, BYTES),
    9: _skip("strings"),
    10: _many("tensors"),
    11: _many("graphs"),
    13: _skip("doc_string"),
    14: _skip("tp"),
    15: _skip("type_protos"),
    20: _skip("type", VARINT),
    21: _skip("ref_attr_name"),
    22: _refuse("sparse_tensor", "onnx_sparse_refused"),
    23: _refuse("sparse_tensors", "onnx_sparse_refused"),
}
TENSOR: Table = {
    1: _many("dims", VARINT, BYTES),
    2: _one("data_type", VARINT),
    3: _refuse("segment", "onnx_initializer_size"),
    4: _many("float_data", FIXED32, BYTES),
    5: _many("int32_data", VARINT, BYTES),
    6: _many("string_data"),
    7: _many("int64_data", VARINT, BYTES),
    8: _one("name"),
    9: _one("raw_data"),
    10: _many("double_data", FIXED64, BYTES),
    11: _many("uint64_data", VARINT, BYTES),
    12: _skip("doc_string"),
    13: _many("external_data"),
    14: _one("data_location", VARINT),
    16: _skip("metadata_props"),
}
STRING_ENTRY: Table = {1: _one("key"), 2: _one("value")}
VALUE_INFO: Table = {
    1: _one("name"),
    2: _one("type"),
    3: _skip("doc_string"),
    4: _skip("metadata_props"),
}
# Only tensors go in and out; a value of another kind has no tensor_type.
TYPE: Table = {
    1: _one("tensor_type"),
    4: _skip("sequence_type"),
    5: _skip("map_type"),
    6: _skip("denotation"),
    7: _skip("opaque_type"),
    8: _skip("sparse_tensor_type"),
    9: _skip("optional_type"),
}
TENSOR_TYPE: Table = {1: _one("elem_type", VARINT), 2: _one("shape")}
SHAPE: Table = {1: _many("dim")}
DIMENSION: Table = {
    1: _one("dim_value", VARINT),
    2: _one("dim_param"),
    3: _skip("denotation"),
}
FUNCTION: Table = {
    1: _one("name"),
    4: _skip("input"),
    5: _skip("output"),
    6: _skip("attribute"),
    7: _many("node"),
    8: _skip("doc_string"),
    9: _many("opset_import"),
    10: _one("domain"),
    11: _many("attribute_proto"),
    12: _skip("value_info"),
    13: _one("overload"),
    14: _skip("metadata_props"),
}


class Message:
    """The kept fields of one message, by name."""

    __slots__ = ("_fields", "_what")

    def __init__(self, data: memoryview, table: Table, what: str, budget: Budget) -> None:
        self._what = what
        self._fields: dict[str, list[int | memoryview]] = {}
        try:
            for number, wire_type, value in read_fields(data, budget):
                self._keep(table.get(number), wire_type, value)
        except WireError as error:
            raise ArtifactError("onnx_malformed", f"The {what} {error}.") from None

    def _keep(self, rule: FieldRule | None, wire_type: int, value: int | memoryview) -> None:
        if rule is None or wire_type not in rule.wire_types:
            detail = f"The {self._what} has a field that ONNX does not define."
            raise ArtifactError("onnx_malformed", detail)
        if rule.treatment == REFUSE:
            detail = f"The {self._what} has {rule.name}, which is not accepted."
            raise ArtifactError(rule.reason_code, detail)
        if rule.treatment == SKIP:
            return
        kept = self._fields.setdefault(rule.name, [])
        if rule.treatment == ONE and kept:
            detail = f"The {self._what} has {rule.name} twice."
            raise ArtifactError("onnx_malformed", detail)
        kept.append(value)

    def has(self, name: str) -> bool:
        """Whether the field stands at all, be it empty."""
        return name in self._fields

    def number(self, name: str, default: int = 0) -> int:
        """A signed number."""
        kept = self._fields.get(name)
        return signed(kept[0]) if kept and isinstance(kept[0], int) else default

    def text(self, name: str) -> str:
        """A text; empty where there is none.

        Raises:
            ArtifactError: It is not UTF-8.
        """
        kept = self.views(name)
        if not kept:
            return ""
        try:
            return bytes(kept[0]).decode("utf-8")
        except UnicodeDecodeError:
            detail = f"The {self._what} has a {name} that is not UTF-8."
            raise ArtifactError("onnx_malformed", detail) from None

    def views(self, name: str) -> list[memoryview]:
        """All values of a field that holds bytes, texts or messages."""
        return [one for one in self._fields.get(name, []) if isinstance(one, memoryview)]

    def numbers(self, name: str, budget: Budget) -> list[int]:
        """All numbers of a repeated varint field, packed or not."""
        found: list[int] = []
        try:
            for one in self._fields.get(name, []):
                found += [one] if isinstance(one, int) else read_packed(one, budget)
        except WireError as error:
            raise ArtifactError("onnx_malformed", f"The {self._what} {error}.") from None
        return [signed(one) for one in found]

    def values(self, name: str) -> list[int | memoryview]:
        """All values as they stand: numbers, or views of packed ones."""
        return self._fields.get(name, [])
