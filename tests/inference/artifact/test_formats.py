from __future__ import annotations

import json
import pickle
import struct

import pytest

from inference.artifact import formats
from inference.artifact.errors import ArtifactError
from tests.inference.artifact.hostile_files import Payload, samples
from tests.inference.artifact.onnx_models import linear

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("_kind", ["safetensors", "onnx", "config", "tokenizer", "labels"])
def test_refused_formats_are_known_under_any_name(tmp_path, _kind):
    found = {}
    for name, (content, reason_code) in samples(tmp_path).items():
        with pytest.raises(ArtifactError) as caught:
            formats.check_content(_kind, "model.safetensors", memoryview(content))
        found[name] = (caught.value.reason_code, reason_code)

    assert {name: pair for name, pair in found.items() if pair[0] != pair[1]} == {}
    assert not (tmp_path / "RAN").exists()


def test_the_payload_of_the_samples_would_run(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "RAN")))

    assert (tmp_path / "RAN").exists()


def _safetensors(header_size: int) -> bytes:
    header = b"{" + b" " * (header_size - 2) + b"}"
    return struct.pack("<Q", len(header)) + header


_HONEST = {
    "onnx": linear(),
    "config": json.dumps({"import": "from x import y", "a": 1}).encode(),
    "tokenizer": b'{\n "model": {"vocab": {"import": 1,\n"class x": 2}}}',
    "labels": "Zebra\nimport\u00e9\n".encode(),
}


@pytest.mark.parametrize("_kind", _HONEST)
def test_honest_files_are_not_mistaken(_kind):
    formats.check_content(_kind, "file", memoryview(_HONEST[_kind]))


@pytest.mark.parametrize("_size", [2, 0x0280, 0x0380, 0x0480, 0x0580])
def test_header_length_that_looks_like_a_pickle_is_none(_size):
    formats.check_content("safetensors", "model.safetensors", memoryview(_safetensors(_size)))


def test_any_bytes_may_be_external_data():
    formats.check_content("external_data", "w.bin", memoryview(pickle.dumps([])))


@pytest.mark.parametrize(
    ("_path", "_reason_code"),
    [
        ("modeling_evil.py", "python_file_refused"),
        ("sub/MODEL.PY", "python_file_refused"),
        ("model.pyc", "python_file_refused"),
        ("model.pkl", "pickle_refused"),
        ("pytorch_model.pt", "pickle_refused"),
        ("model.ckpt", "pickle_refused"),
        ("model.pt2", "pt2_refused"),
        ("model.gguf", "gguf_refused"),
        ("env.tar.gz", "archive_refused"),
        ("model.zip", "archive_refused"),
        ("model.py.json", "python_file_refused"),
    ],
)
def test_names_of_refused_formats(_path, _reason_code):
    with pytest.raises(ArtifactError) as caught:
        formats.check_name(_path)

    assert caught.value.reason_code == _reason_code


@pytest.mark.parametrize("_path", ["model.onnx", "model-00001-of-00002.safetensors", "w.bin"])
def test_names_of_accepted_formats(_path):
    formats.check_name(_path)


@pytest.mark.parametrize(
    ("_runtime", "_kinds", "_reason_code"),
    [
        ("onnx", ["config"], "file_missing"),
        ("onnx", ["onnx", "onnx"], "file_unexpected"),
        ("onnx", ["onnx", "safetensors"], "file_unexpected"),
        ("transformers", ["config", "tokenizer"], "file_missing"),
        ("transformers", ["safetensors", "config"], "file_missing"),
        ("transformers", ["onnx"], "file_unexpected"),
        ("tensorflow", ["onnx"], "runtime_unknown"),
    ],
)
def test_layout_must_be_the_runtimes(_runtime, _kinds, _reason_code):
    with pytest.raises(ArtifactError) as caught:
        formats.check_layout(_runtime, _kinds)

    assert caught.value.reason_code == _reason_code


def test_fitting_layouts_are_accepted():
    formats.check_layout("onnx", ["onnx", "external_data", "labels"])
    formats.check_layout("transformers", ["config", "config", "safetensors", "tokenizer"])
