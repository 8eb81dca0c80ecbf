"""Sealed ONNX graphs in a real tritonserver, compared with ONNX Runtime on the plain file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from inference.serving.digest import compute_loader_digest
from inference.serving.probe import PROBES, REFUSED
from tests.inference.artifact.onnx_models import (
    LINEAR_INTERFACE,
    WEIGHTS,
    external_tensor,
    linear,
    linear_with_external,
    model,
    value,
)
from tests.inference.serving.sealed import seal


def tensor(name: str, shape: list[int], datatype: str = "FP32") -> dict[str, Any]:
    return {"name": name, "kind": "tensor", "datatype": datatype, "shape": shape}


def seal_graph(folder: Path, graph: bytes, interface: dict[str, Any]) -> Any:
    return seal(folder, {"model.onnx": ("onnx", graph)}, runtime="onnx", interface=interface)


def test_answers_are_those_of_the_plain_model(triton, load, parts):
    name, peer = load(seal_graph(parts, linear(), LINEAR_INTERFACE))
    x = np.random.default_rng(1).normal(size=(3, 16)).astype(np.float32)

    answer = triton.infer(name, x=x)

    plain = onnxruntime.InferenceSession(linear(), providers=["CPUExecutionProvider"])
    assert np.array_equal(answer["y"], plain.run(["y"], {"x": x})[0])
    assert peer.phases == ["sandboxed", "decrypting", "validating", "loading", "warming"]


def test_report_says_what_happened(load, parts):
    _, peer = load(seal_graph(parts, linear(), LINEAR_INTERFACE))

    assert peer.find("loader_digest") == compute_loader_digest()
    assert peer.find("validation") == {
        "nodes": 1,
        "parameters": 64,
        "opsets": {"": 17},
        "external_files": 0,
        "files": [{"path": "model.onnx", "kind": "onnx", "size_bytes": len(linear())}],
    }
    loaded = peer.find("loaded")
    assert loaded["plain_size_bytes"] == len(linear())
    assert loaded["sandbox"]["probe"] == dict.fromkeys(PROBES, REFUSED)
    assert loaded["sandbox"]["seccomp"] is True
    # Triton's stub has threads of its own, and they are confined with the rest.
    assert loaded["sandbox"]["threads"] > 1
    assert loaded["versions"].keys() == {"numpy", "onnxruntime"}


def test_external_data_comes_from_memory(triton, load, parts):
    plain = bytes(8) + WEIGHTS.tobytes()
    graph = linear_with_external(
        external_tensor("w", [16, 4], location="weights.bin", offset="8", length="256")
    )
    sealed = seal(
        parts,
        {
            "onnx/model.onnx": ("onnx", graph),
            "onnx/weights.bin": ("external_data", plain),
            "labels.txt": ("labels", b"a\nb\n"),
        },
        runtime="onnx",
        interface=LINEAR_INTERFACE,
    )
    name, _ = load(sealed)
    x = np.eye(8, 16, dtype=np.float32)

    # Twice: the plain copies are gone after the load.
    for _ in range(2):
        assert np.array_equal(triton.infer(name, x=x)["y"], WEIGHTS[:8])


def test_graph_without_a_batch_axis(triton, load, parts):
    graph = model(
        [
            helper.make_node("Mul", ["x", "factor"], ["y"]),
            helper.make_node("ReduceSum", ["y"], ["total"], keepdims=0),
        ],
        [value("x", [2, 3]), value("factor", [])],
        [value("y", [2, 3]), value("total", [])],
    )
    interface = {
        "inputs": [tensor("x", [2, 3]), {"name": "factor", "kind": "number"}],
        "outputs": [tensor("y", [2, 3]), {"name": "total", "kind": "number"}],
        "batch": {"max_size": 1, "leading_axis": False},
    }
    name, _ = load(seal_graph(parts, graph, interface))
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3)

    answer = triton.infer(name, x=x, factor=np.array([[2]], np.float32))

    assert np.array_equal(answer["y"], 2 * x)
    assert answer["total"].tolist() == [[30.0]]


def test_texts_and_single_values(triton, load, parts):
    graph = model(
        [
            helper.make_node("Identity", ["text"], ["same"]),
            helper.make_node("Not", ["flag"], ["other"]),
            helper.make_node("Neg", ["count"], ["negative"]),
        ],
        [
            value("text", [None, 1], TensorProto.STRING),
            value("flag", [None], TensorProto.BOOL),
            value("count", [None, 1], TensorProto.INT64),
        ],
        [
            value("same", [None, 1], TensorProto.STRING),
            value("other", [None], TensorProto.BOOL),
            value("negative", [None, 1], TensorProto.INT64),
        ],
    )
    interface = {
        "inputs": [
            {"name": "text", "kind": "text"},
            {"name": "flag", "kind": "boolean"},
            {"name": "count", "kind": "integer"},
        ],
        "outputs": [
            {"name": "same", "kind": "text"},
            {"name": "other", "kind": "boolean"},
            {"name": "negative", "kind": "integer"},
        ],
        "batch": {"max_size": 4, "leading_axis": True},
    }
    name, _ = load(seal_graph(parts, graph, interface))

    answer = triton.infer(
        name,
        text=np.array([["grün".encode()], [b""]], dtype=object),
        flag=np.array([[True], [False]]),
        count=np.array([[1], [-2]]),
    )

    assert answer["same"].tolist() == [["grün".encode()], [b""]]
    assert answer["other"].tolist() == [[False], [True]]
    assert answer["negative"].tolist() == [[-1], [2]]


def test_tensors_larger_than_the_first_shared_memory(triton, load, parts):
    graph = model(
        [helper.make_node("Neg", ["x"], ["y"])],
        [value("x", [None, None])],
        [value("y", [None, None])],
    )
    interface = {"inputs": [tensor("x", [-1])], "outputs": [tensor("y", [-1])]}
    name, _ = load(seal_graph(parts, graph, interface))
    x = np.random.default_rng(2).normal(size=(1, 3_000_000)).astype(np.float32)

    assert np.array_equal(triton.infer(name, x=x)["y"], -x)


def test_failing_request_leaves_the_model_serving(triton, load, parts):
    graph = model(
        [
            helper.make_node("Gather", ["table", "index"], ["row"]),
            helper.make_node("Log", ["row"], ["y"]),
        ],
        [value("index", [None, 1], TensorProto.INT64)],
        [value("y", [None, 1])],
        [helper.make_tensor("table", TensorProto.FLOAT, [3], [1.0, -1.0, 1.0])],
    )
    interface = {
        "inputs": [{"name": "index", "kind": "integer"}],
        "outputs": [{"name": "y", "kind": "number"}],
        "batch": {"max_size": 8, "leading_axis": True},
    }
    name, _ = load(seal_graph(parts, graph, interface))

    def ask(index: int) -> Any:
        return triton.infer(name, index=np.array([[index]]))["y"].tolist()

    assert ask(0) == [[0.0]]
    with pytest.raises(InferenceServerException, match="model_failed: The model failed on this"):
        ask(99)
    with pytest.raises(InferenceServerException, match="output_not_finite: The output y "):
        ask(1)
    assert ask(2) == [[0.0]]


def test_model_of_the_scan_takes_the_same_way(triton, parts):
    sealed = seal_graph(parts, linear(), LINEAR_INTERFACE)
    name, peer = triton.prepare(sealed, purpose="scan")

    with peer:
        triton.load(name)

    assert peer.phases == ["sandboxed", "decrypting", "validating", "loading", "warming"]
    triton.unload(name)
