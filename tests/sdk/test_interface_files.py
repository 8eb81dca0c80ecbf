"""Inputs that stand for files: what is taken for one, what is refused and why."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from inference.artifact.examples import make_rows
from inference.triton import tensors
from inference.triton.errors import TensorError
from strongroom.errors import InputError, InterfaceError
from strongroom.interface import FORMATS, MAX_DATA_URL_LENGTH, PLAIN_FILES, Interface

ID = "file_" + "a" * 26
HEAD = "data:image/png;base64,"


def interface(**members):
    described = {"name": "x", "kind": "text", "format": "image"} | members
    outputs = [{"name": "y", "kind": "text"}]
    return Interface.parse({"inputs": [described], "outputs": outputs})


def fault(value, **members):
    with pytest.raises(InputError) as refused:
        interface(**members).check_input({"x": value})
    [found] = refused.value.errors
    return found


def encode(value, **members):
    made = interface(**members)
    [tensor] = tensors.encode(made, [made.check_input({"x": value})])
    return tensor


@pytest.mark.parametrize("kind", FORMATS)
def test_a_description_comes_back(kind):
    made = interface(format=kind)
    assert made.inputs[0].format == kind
    assert Interface.parse(made.to_json()) == made


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"format": "video"}, "format_unknown"),
        ({"format": 1}, "format_unknown"),
        ({"max_length": 5}, "max_length_not_allowed"),
        ({"default": "http://169.254.169.254/"}, "url_refused"),
        ({"kind": "number"}, "unknown_member"),
    ],
)
def test_what_is_no_description(members, code):
    with pytest.raises(InterfaceError) as refused:
        interface(**members)
    assert refused.value.code == code


def test_a_data_url_becomes_its_octets():
    octets = bytes(range(256))
    tensor = encode(HEAD + base64.b64encode(octets).decode())
    assert (tensor.datatype, tensor.shape) == ("BYTES", (1, 1))
    assert tensor.data[0, 0] == octets


def test_a_data_url_at_the_limit_and_one_past_it():
    fitting = "A" * (MAX_DATA_URL_LENGTH - len(HEAD) - 2)
    assert len(HEAD + fitting + "==") <= MAX_DATA_URL_LENGTH
    size = (MAX_DATA_URL_LENGTH - len(HEAD)) // 4 * 4
    assert len(encode(HEAD + "A" * size).data[0, 0]) == size // 4 * 3
    found = fault(HEAD + "A" * (MAX_DATA_URL_LENGTH - len(HEAD) + 1))
    assert found["code"] == "too_long"
    assert "/v1/files" in found["detail"]


@pytest.mark.parametrize(
    "value", [ID, f"https://gw.example/v1/files/{ID}", f"http://x:1/v1/files/{ID}/content?a=b&c"]
)
def test_a_file_is_named_by_its_id_or_address(value):
    assert interface().check_input({"x": value}) == {"x": value}
    # Somebody has to fetch it before it is sent to a model.
    with pytest.raises(TensorError, match="names a file"):
        encode(value)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("http://169.254.169.254/latest/meta-data", "url_refused"),
        ("https://example.com/a.png", "url_refused"),
        (f"https://example.com/a?/v1/files/{ID}", "url_refused"),
        (f"https://example.com/v1/files/{ID} x", "url_refused"),
        ("ftp://example.com/a.png", "not_a_file"),
        ("file:///etc/passwd", "not_a_file"),
        ("file_x", "not_a_file"),
        (ID + "a", "not_a_file"),
        ("", "not_a_file"),
        ("data:image/png,plain", "not_a_file"),
        ("data:;base64,AA==", "not_a_file"),
        (HEAD + "A", "not_a_file"),
        (HEAD + "A-_=", "not_a_file"),
        (HEAD + "é", "not_a_file"),
        ("data:audio/wav;base64,AA==", "type_mismatch"),
        ("data:text/html;base64,AA==", "type_mismatch"),
        (5, "type_mismatch"),
        (None, "type_mismatch"),
    ],
)
def test_what_is_no_file(value, code):
    assert fault(value)["code"] == code


def test_any_type_is_a_file():
    value = "data:text/html;charset=utf-8;base64,AA=="
    assert encode(value, format="file").data[0, 0] == b"\0"


@pytest.mark.parametrize("kind", FORMATS)
def test_a_model_is_tried_with_the_plainest_file(kind):
    class Manifest:
        test_vectors = ()

    made = interface(format=kind)
    [row] = make_rows(Manifest(), made)
    assert row == {"x": PLAIN_FILES[kind]}
    [tensor] = tensors.encode(made, [made.check_input(row)])
    assert tensor.data.dtype == np.object_
    assert tensor.data[0, 0]
