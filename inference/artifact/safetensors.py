"""The header of a safetensors file, checked to the last byte.

The header decides where every tensor lies, so it must describe the file completely and
in one way only: each byte belongs to exactly one tensor, each range has the length that
its shape and type demand. Then a zero-copy view can never reach outside the file, share
memory with another tensor, or leave room for hidden bytes.

Source: safetensors, "Format": 8 bytes little-endian header length, JSON, data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inference.artifact.errors import ArtifactError, shown
from inference.artifact.json_document import parse_object

# The library allows 100 MB. A tensor takes about 120 bytes of header, so this leaves
# room for four times the tensors that are allowed.
MAX_HEADER_SIZE_BYTES = 8 * 1024 * 1024
# A mixture of experts with 128 experts in 94 layers has about 37,000 matrices split per
# projection; those come sharded or stacked. Dense models stay below 2,000.
MAX_TENSORS = 16_384
MAX_RANK = 8
MAX_NAME_LENGTH = 512

# Sizes in bytes. Types below one byte need rules for padding that no served model needs.
ITEM_SIZES: Mapping[str, int] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
FLOAT_TYPES = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True, slots=True)
class TensorRange:
    """Where one tensor lies; `begin` counts from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    size_bytes: int

    @property
    def element_count(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """What a file holds, in the order of its bytes."""

    tensors: Mapping[str, TensorRange]
    data_begin: int
    parameter_count: int


def parse_header(data: memoryview) -> SafetensorsHeader:
    """Check a whole file and return its map of tensors.

    Args:
        data: The plain file.

    Raises:
        ArtifactError: With a code that starts with `safetensors_`.
    """
    if len(data) < 8:
        raise ArtifactError("safetensors_truncated", "The file is shorter than its first field.")
    header_size = int.from_bytes(data[:8], "little")
    limit = min(MAX_HEADER_SIZE_BYTES, len(data) - 8)
    if header_size > limit:
        detail = f"The header claims {header_size} bytes; at most {limit} are possible here."
        raise ArtifactError("safetensors_header_too_large", detail)
    if bytes(data[8:9]) != b"{":
        raise ArtifactError("safetensors_header_malformed", "The header is not a JSON object.")
    header = parse_object(
        data[8 : 8 + header_size],
        what="The safetensors header",
        max_size_bytes=MAX_HEADER_SIZE_BYTES,
        reason_prefix="safetensors_header",
    )
    _check_metadata(header.pop("__metadata__", {}))
    if len(header) > MAX_TENSORS:
        detail = f"The file has {len(header)} tensors; {MAX_TENSORS} are allowed."
        raise ArtifactError("safetensors_too_many_tensors", detail)
    base = 8 + header_size
    found = [(name, _parse_entry(name, entry, base)) for name, entry in header.items()]
    found.sort(key=lambda pair: (pair[1].begin, pair[1].size_bytes))
    _check_cover(found, base, len(data))
    count = sum(one.element_count for _, one in found)
    return SafetensorsHeader(dict(found), base, count)


def _check_metadata(metadata: Any) -> None:
    is_flat = isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    if not is_flat:
        detail = "__metadata__ must be an object of texts."
        raise ArtifactError("safetensors_header_malformed", detail)


def _parse_entry(name: str, entry: Any, base: int) -> TensorRange:
    if not 0 < len(name) <= MAX_NAME_LENGTH:
        detail = f"A tensor's name must have 1 to {MAX_NAME_LENGTH} characters."
        raise ArtifactError("safetensors_header_malformed", detail)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        detail = f"{shown(name)} must have dtype, shape and data_offsets, nothing else."
        raise ArtifactError("safetensors_header_malformed", detail)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        detail = f"{shown(name)} has the type {shown(dtype)}, which is not accepted."
        raise ArtifactError("safetensors_dtype_refused", detail)
    if not _is_sizes(shape) or len(shape) > MAX_RANK:
        detail = f"{shown(name)} must have a shape of at most {MAX_RANK} whole numbers."
        raise ArtifactError("safetensors_shape_mismatch", detail)
    # Also where a length of zero makes the product small: readers multiply in 64 bits, in order.
    if math.prod(length for length in shape if length) * ITEM_SIZES[dtype] >= 2**63:
        detail = f"{shown(name)} has more elements than can be counted."
        raise ArtifactError("safetensors_shape_mismatch", detail)
    if not _is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        detail = f"{shown(name)} must have two offsets in order."
        raise ArtifactError("safetensors_out_of_range", detail)
    size_bytes = offsets[1] - offsets[0]
    if math.prod(shape) * ITEM_SIZES[dtype] != size_bytes:
        detail = f"{shown(name)} takes {size_bytes} bytes, which is not its shape times its type."
        raise ArtifactError("safetensors_shape_mismatch", detail)
    return TensorRange(dtype, tuple(shape), base + offsets[0], size_bytes)


def _is_sizes(value: Any) -> bool:
    # Not isinstance: True and False are ints to Python. Python's numbers do not
    # overflow, but products of them can take long, hence the bound.
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 2**63 for one in value)


def _check_cover(found: list[tuple[str, TensorRange]], base: int, size_bytes: int) -> None:
    position = base
    for name, one in found:
        if one.begin + one.size_bytes > size_bytes:
            detail = f"{shown(name)} ends behind the end of the file."
            raise ArtifactError("safetensors_out_of_range", detail)
        if one.begin < position:
            detail = f"{shown(name)} overlaps the tensor before it."
            raise ArtifactError("safetensors_overlap", detail)
        if one.begin > position:
            detail = f"{one.begin - position} bytes before {shown(name)} belong to no tensor."
            raise ArtifactError("safetensors_hole", detail)
        position = one.begin + one.size_bytes
    if position != size_bytes:
        detail = f"{size_bytes - position} bytes at the end belong to no tensor."
        raise ArtifactError("safetensors_trailing_bytes", detail)
