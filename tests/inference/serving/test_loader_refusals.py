"""What must not load: nothing is served, and the node learns one reason code."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from marketplace.core.ids import new_id
from strongroom.sealing.manifest import TestVector
from tests.inference.artifact.hostile_files import samples
from tests.inference.artifact.onnx_models import (
    LINEAR_INTERFACE,
    custom_op,
    external_tensor,
    linear,
    linear_with_external,
    model,
    value,
)
from tests.inference.artifact.test_safetensors import blob, entry
from tests.inference.serving import builders
from tests.inference.serving.peer import Peer
from tests.inference.serving.sealed import SealedModel, seal
from tests.inference.serving.triton import LoadFailedError, Triton

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def sealed(parts) -> SealedModel:
    return seal_graph(parts, linear())


def seal_graph(parts: Path, graph: bytes, **files: tuple[str, bytes]) -> SealedModel:
    everything = {"model.onnx": ("onnx", graph), **files}
    return seal(parts, everything, runtime="onnx", interface=LINEAR_INTERFACE)


def seal_llama(parts: Path, **changes: tuple[str, bytes]) -> SealedModel:
    files = builders.llama_files() | {name.replace("__", "."): one for name, one in changes.items()}
    return seal(parts, files, runtime="transformers", interface=builders.GENERATION_INTERFACE)


# --- Ciphertext and keys ---


def test_tampered_segment(sealed, refuse):
    place = sealed.parts[0]
    content = bytearray(place.read_bytes())
    content[100] ^= 1
    place.write_bytes(content)

    reason_code, peer = refuse(sealed)

    assert reason_code == "tampered"
    assert "validating" not in peer.phases


def test_wrong_key(sealed, refuse):
    def bend(peer: Peer) -> None:
        peer.dek = bytes(32)

    assert refuse(sealed, bend=bend)[0] == "header_tag_invalid"


def test_manifest_of_another_version(sealed, refuse):
    other = sealed.with_manifest(artifact_id=str(new_id()))

    def bend(peer: Peer) -> None:
        peer.manifest_text = other.manifest.canonical_bytes().decode()

    # The broker sealed the key for the version that the node may load.
    assert refuse(sealed, bend=bend)[0] == "key_wrap_invalid"


def test_file_of_another_version_in_the_same_manifest(parts, sealed, refuse):
    other = seal_graph(parts, linear())
    [file] = other.manifest.files
    mixed = replace(sealed.with_manifest(files=(file,)), parts=other.parts)

    assert refuse(mixed)[0] == "header_tag_invalid"


def test_lease_of_another_replica(sealed, refuse):
    def bend(peer: Peer) -> None:
        peer.replica_id = str(new_id())

    assert refuse(sealed, bend=bend)[0] == "key_wrap_invalid"


def test_lease_that_the_broker_refused(sealed, refuse):
    def bend(peer: Peer) -> None:
        peer.refuse_with = "not_assigned"

    reason_code, peer = refuse(sealed, bend=bend)

    assert reason_code == "not_assigned"
    assert "decrypting" not in peer.phases


def test_part_that_is_open_for_writing(sealed, refuse):
    def bend(peer: Peer) -> None:
        peer.open_part = lambda place: os.open(place, os.O_RDWR)

    reason_code, peer = refuse(sealed, bend=bend)

    assert reason_code == "protocol_error"
    assert peer.find("ready_for_key") is None


def test_part_that_was_cut(sealed, refuse):
    os.truncate(sealed.parts[0], 10)

    assert refuse(sealed)[0] == "part_size_mismatch"


def test_manifest_that_is_not_canonical(sealed, refuse):
    def bend(peer: Peer) -> None:
        peer.manifest_text += " "

    reason_code, peer = refuse(sealed, bend=bend)

    assert reason_code == "manifest_not_canonical"
    assert peer.find("ready_for_key") is None


def test_node_that_is_not_there(triton, sealed):
    name, peer = triton.prepare(sealed)
    peer._server.close()

    with pytest.raises(LoadFailedError, match="RuntimeError: node_unreachable"):
        triton.load(name)


def test_node_that_leaves_before_the_key(sealed, triton):
    name, peer = triton.prepare(sealed)

    def leave(_: Peer) -> None:
        raise ConnectionAbortedError

    peer.before_lease = leave
    with peer, pytest.raises(LoadFailedError, match="RuntimeError: node_lost"):
        triton.load(name)


# --- Graphs ---


def _unknown_operator() -> bytes:
    node = helper.make_node("NoSuchOperator", ["x"], ["y"])
    return model([node], [value("x", [None, 16])], [value("y", [None, 4])])


_GRAPHS = {
    "traversal": (
        linear_with_external(external_tensor("w", [16, 4], location="../../../../etc/passwd")),
        "onnx_external_data",
    ),
    "custom_op": (custom_op(), "onnx_custom_op"),
    "unknown_operator": (_unknown_operator(), "model_invalid"),
    "pickle": (pickle.dumps({"w": [1.0]}), "pickle_refused"),
    "python": (b"import os\nos.system('id')\n", "python_file_refused"),
    "noise": (bytes(range(255, 0, -1)), "onnx_malformed"),
    "other_interface": (
        model(
            [helper.make_node("Neg", ["x"], ["y"])],
            [value("x", [None, 4])],
            [value("y", [None, 4])],
        ),
        "interface_mismatch",
    ),
}


@pytest.mark.parametrize("_case", _GRAPHS)
def test_hostile_graph(parts, refuse, _case):
    graph, reason_code = _GRAPHS[_case]

    found, peer = refuse(seal_graph(parts, graph))

    assert found == reason_code
    assert peer.find("loaded") is None


@pytest.mark.parametrize("_name", ["torch_zip", "torchscript", "pt2", "zip", "script"])
def test_file_of_another_format(tmp_path, parts, refuse, _name):
    content, reason_code = samples(tmp_path)[_name]

    found, peer = refuse(seal_graph(parts, content))

    assert found == reason_code
    assert peer.find("loaded") is None
    assert not (tmp_path / "RAN").exists()


def test_model_that_fails_on_its_creators_example(triton, parts, refuse, load):
    graph = model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [value("x", [None, 16])],
        [value("y", [None, 4])],
        [helper.make_tensor("shape", 7, [2], [-1, 5])],
    )
    vector = TestVector({"x": [0.0] * 16}, {"y": [0.0] * 4})
    sealed = seal_graph(parts, graph)

    assert refuse(sealed.with_manifest(test_vectors=(vector,)))[0] == "model_failed"
    # An input that nobody gave proves nothing.
    name, _ = load(sealed)
    assert triton.client.is_model_ready(name)


# --- The answer ---

_X = [float(one) for one in range(16)]


def _onnx(parts: Path) -> tuple[SealedModel, dict[str, Any]]:
    return seal_graph(parts, linear()), {"x": _X}


def _generation(parts: Path) -> tuple[SealedModel, dict[str, Any]]:
    prompt = {"prompt": "hello world the", "max_new_tokens": 12, "temperature": 0.0}
    return seal_llama(parts), prompt


def _answer(triton: Triton, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """What the loaded model answers, as a creator would write it down."""
    if "x" in inputs:
        [values] = triton.infer(name, x=np.array([inputs["x"]], np.float32))["y"].tolist()
        return {"y": values}
    answer = triton.infer(
        name,
        prompt=np.array([[inputs["prompt"].encode()]], object),
        max_new_tokens=np.array([[inputs["max_new_tokens"]]]),
        temperature=np.zeros((1, 1), np.float32),
        seed=np.full((1, 1), -1),
    )
    return {"text": answer["text"][0, 0].decode(), "tokens_out": int(answer["tokens_out"][0, 0])}


def _other(value: Any) -> Any:
    """A wrong answer that only somebody who looks at all of it tells from the right one."""
    if isinstance(value, str):
        return value[:-1] + ("a" if value[-1] != "a" else "b")
    return [*value[:-1], value[-1] + 0.01]


@pytest.mark.parametrize("_make", [_onnx, _generation])
def test_model_that_answers_otherwise_than_in_its_tests(triton, parts, refuse, load, _make):
    sealed, inputs = _make(parts)
    name, _ = load(sealed)
    expected = _answer(triton, name, inputs)
    output = next(iter(expected))

    name, _ = load(sealed.with_manifest(test_vectors=(TestVector(inputs, expected),)))
    assert triton.client.is_model_ready(name)

    wrong = TestVector(inputs, expected | {output: _other(expected[output])})
    reason_code, peer = refuse(sealed.with_manifest(test_vectors=(wrong,)))

    assert reason_code == "canary_mismatch"
    assert peer.find("failed")["detail"].startswith(f"Test vector 0, /{output}")
    assert peer.find("loaded") is None


def test_every_vector_is_compared_before_the_model_serves(triton, parts, refuse, load):
    sealed, inputs = _onnx(parts)
    name, _ = load(sealed)
    right = TestVector(inputs, _answer(triton, name, inputs))
    wrong = TestVector(inputs, {"y": _other(right.expected["y"])})

    _, peer = load(sealed.with_manifest(test_vectors=(right, right, right)))
    assert peer.find("loaded")["vectors_compared"] == 3

    reason_code, peer = refuse(sealed.with_manifest(test_vectors=(right, right, wrong)))
    assert reason_code == "canary_mismatch"
    assert peer.find("failed")["detail"].startswith("Test vector 2, /y/3")


def test_vectors_allow_what_their_creator_allows(triton, parts, refuse, load):
    sealed, inputs = _onnx(parts)
    name, _ = load(sealed)
    near = _answer(triton, name, inputs)["y"]
    near[0] += 0.01 * max(1.0, abs(near[0]))

    def with_tolerance(tolerance: float) -> SealedModel:
        vector = TestVector(inputs, {"y": near}, tolerance)
        return sealed.with_manifest(test_vectors=(vector,))

    load(with_tolerance(0.02))
    assert refuse(with_tolerance(0.005))[0] == "canary_mismatch"


def test_scan_leaves_the_comparison_to_the_tests(triton, parts):
    sealed = seal_graph(parts, linear())
    wrong = TestVector({"x": _X}, {"y": [1e6] * 4})

    name, peer = triton.prepare(sealed.with_manifest(test_vectors=(wrong,)), purpose="scan")
    with peer:
        triton.load(name)

    # Onboarding tries every vector next, and says which of them fail where.
    assert peer.find("loaded")["vectors_compared"] == 0
    triton.unload(name)


# --- Files ---


@pytest.mark.parametrize(
    ("_path", "_reason_code"),
    [("modeling_evil.py", "python_file_refused"), ("pytorch_model.pt", "pickle_refused")],
)
def test_file_that_is_refused_by_its_name(parts, refuse, _path, _reason_code):
    sealed = seal_graph(parts, linear(), **{_path: ("config", b"{}")})

    reason_code, peer = refuse(sealed)

    assert reason_code == _reason_code
    # Known from the manifest: no key was asked for.
    assert peer.find("ready_for_key") is None


def test_files_of_another_runtime(parts, refuse):
    sealed = seal_graph(parts, linear(), tokenizer=("tokenizer", b"{}"))

    assert refuse(sealed)[0] == "file_unexpected"


def _config(**changes: Any) -> tuple[str, bytes]:
    return ("config", json.dumps(builders.llama().config.to_dict() | changes).encode())


_FOLDERS = {
    "pickle_renamed": (
        {"model__safetensors": ("safetensors", pickle.dumps({"w": 1}))},
        "pickle_refused",
    ),
    "header_bomb": (
        {
            "model__safetensors": (
                "safetensors",
                (1 << 40).to_bytes(8, "little") + b"{" + b" " * 100,
            )
        },
        "safetensors_header_too_large",
    ),
    "overlap": (
        {
            "model__safetensors": (
                "safetensors",
                bytes(blob({"a": entry(0, 4, [1]), "b": entry(0, 4, [1])}, bytes(4))),
            )
        },
        "safetensors_overlap",
    ),
    "config_bomb": ({"config__json": _config(num_hidden_layers=10**9)}, "config_too_large"),
    "other_layers": ({"config__json": _config(num_hidden_layers=3)}, "weights_mismatch"),
}


@pytest.mark.parametrize("_case", _FOLDERS)
def test_hostile_folder(parts, refuse, _case):
    changes, reason_code = _FOLDERS[_case]

    assert refuse(seal_llama(parts, **changes))[0] == reason_code
