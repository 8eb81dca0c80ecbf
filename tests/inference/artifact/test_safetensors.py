from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save

from inference.artifact import safetensors
from inference.artifact.errors import ArtifactError
from inference.artifact.safetensors import parse_header


def blob(header: object, data: bytes = b"") -> memoryview:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return memoryview(len(raw).to_bytes(8, "little") + raw + data)


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def refuse(data: memoryview) -> str:
    with pytest.raises(ArtifactError) as caught:
        parse_header(data)
    return caught.value.reason_code


def test_reads_what_the_library_wrote():
    arrays = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.array([], dtype=np.int64),
        "c": np.array(7, dtype=np.float16),
    }
    data = memoryview(save(arrays, metadata={"format": "np"}))

    header = parse_header(data)

    assert header.parameter_count == 7
    for name, array in arrays.items():
        place = header.tensors[name]
        assert place.shape == array.shape
        assert bytes(data[place.begin : place.begin + place.size_bytes]) == array.tobytes()


_REFUSED = {
    "empty": (memoryview(b""), "safetensors_truncated"),
    "header_bomb": (
        memoryview((1 << 40).to_bytes(8, "little") + b"{" + b" " * 100),
        "safetensors_header_too_large",
    ),
    "header_past_end": (
        memoryview((3).to_bytes(8, "little") + b"{}"),
        "safetensors_header_too_large",
    ),
    "not_an_object": (blob(b"[]"), "safetensors_header_malformed"),
    "not_json": (blob(b"{nope}"), "safetensors_header_malformed"),
    "not_utf8": (blob(b'{"\xff":1}'), "safetensors_header_malformed"),
    "deep": (
        blob(b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"),
        "safetensors_header_malformed",
    ),
    "duplicate_key": (
        blob(b'{"a":' + json.dumps(entry(0, 4, [1])).encode() + b',"a":1}', bytes(4)),
        "safetensors_header_duplicate_key",
    ),
    "overlap": (
        blob({"a": entry(0, 4, [1]), "b": entry(0, 4, [1])}, bytes(4)),
        "safetensors_overlap",
    ),
    "partial_overlap": (
        blob({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)),
        "safetensors_overlap",
    ),
    "hole": (blob({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, bytes(12)), "safetensors_hole"),
    "hole_at_start": (blob({"a": entry(4, 8, [1])}, bytes(8)), "safetensors_hole"),
    "trailing": (blob({"a": entry(0, 4, [1])}, bytes(5)), "safetensors_trailing_bytes"),
    "only_trailing": (blob({}, bytes(1)), "safetensors_trailing_bytes"),
    "past_end": (blob({"a": entry(0, 8, [2])}, bytes(4)), "safetensors_out_of_range"),
    "backwards": (blob({"a": entry(4, 0, [1])}, bytes(4)), "safetensors_out_of_range"),
    "shape_too_small": (blob({"a": entry(0, 8, [1])}, bytes(8)), "safetensors_shape_mismatch"),
    "overflowing_shape": (
        blob({"a": entry(0, 0, [2**62, 4])}),
        "safetensors_shape_mismatch",
    ),
    "overflow_beside_a_zero": (
        blob({"a": entry(0, 0, [2**62, 2**62, 0])}),
        "safetensors_shape_mismatch",
    ),
    "overflow_behind_a_zero": (
        blob({"a": entry(0, 0, [0, 2**61, 4])}),
        "safetensors_shape_mismatch",
    ),
    "length_of_65_bits": (
        blob({"a": entry(0, 0, [0, 2**64])}),
        "safetensors_shape_mismatch",
    ),
    "offset_of_65_bits": (blob({"a": entry(0, 2**64, [1])}), "safetensors_out_of_range"),
    "offset_as_float": (
        blob(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4.0]}}', bytes(4)),
        "safetensors_out_of_range",
    ),
    "type_below_a_byte": (blob({"a": entry(0, 1, [2], "F4")}, b"0"), "safetensors_dtype_refused"),
    "type_of_eight_bits": (
        blob({"a": entry(0, 4, [4], "F8_E4M3")}, bytes(4)),
        "safetensors_dtype_refused",
    ),
    "type_is_no_text": (
        blob(b'{"a":{"dtype":["F32"],"shape":[1],"data_offsets":[0,4]}}', bytes(4)),
        "safetensors_dtype_refused",
    ),
    "duplicate_member": (
        blob(b'{"a":{"dtype":"F32","dtype":"U8","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
        "safetensors_header_duplicate_key",
    ),
    "duplicate_by_escape": (
        blob(b'{"a":{},"\\u0061":{}}'),
        "safetensors_header_duplicate_key",
    ),
    "nan": (blob(b'{"a":NaN}'), "safetensors_header_malformed"),
    "negative_shape": (blob({"a": entry(0, 4, [-1])}, bytes(4)), "safetensors_shape_mismatch"),
    "boolean_shape": (
        blob(b'{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}', bytes(4)),
        "safetensors_shape_mismatch",
    ),
    "unknown_type": (blob({"a": entry(0, 1, [2], "F4")}, b"0"), "safetensors_dtype_refused"),
    "more_members": (
        blob({"a": entry(0, 4, [1]) | {"code": 1}}, bytes(4)),
        "safetensors_header_malformed",
    ),
    "metadata_not_text": (blob({"__metadata__": {"a": 1}}), "safetensors_header_malformed"),
    "long_name": (
        blob({"n" * (safetensors.MAX_NAME_LENGTH + 1): entry(0, 4, [1])}, bytes(4)),
        "safetensors_header_malformed",
    ),
}


@pytest.mark.parametrize("_case", _REFUSED)
def test_hostile_file_is_refused(_case):
    data, reason_code = _REFUSED[_case]

    assert refuse(data) == reason_code


def test_number_of_tensors_has_a_limit(monkeypatch):
    monkeypatch.setattr(safetensors, "MAX_TENSORS", 2)
    at_limit = {str(i): entry(4 * i, 4 * i + 4, [1]) for i in range(2)}

    assert len(parse_header(blob(at_limit, bytes(8))).tensors) == 2
    assert refuse(blob(at_limit | {"2": entry(8, 12, [1])}, bytes(12))) == (
        "safetensors_too_many_tensors"
    )


def test_header_size_has_a_limit(monkeypatch):
    header = json.dumps({"a": entry(0, 4, [1])}).encode()
    monkeypatch.setattr(safetensors, "MAX_HEADER_SIZE_BYTES", len(header))

    assert parse_header(blob(header, bytes(4))).parameter_count == 1
    assert refuse(blob(header + b" ", bytes(4))) == "safetensors_header_too_large"


def test_the_header_may_have_eight_mebibytes_and_no_byte_more():
    header = json.dumps({"a": entry(0, 4, [1])}).encode()
    room = safetensors.MAX_HEADER_SIZE_BYTES - len(header)
    assert safetensors.MAX_HEADER_SIZE_BYTES == 8 * 1024 * 1024

    assert parse_header(blob(header + b" " * room, bytes(4))).parameter_count == 1
    assert refuse(blob(header + b" " * (room + 1), bytes(4))) == "safetensors_header_too_large"


def test_lengths_of_zero_are_accepted():
    data = blob({"a": entry(0, 0, [2**60, 0])})

    assert parse_header(data).parameter_count == 0
