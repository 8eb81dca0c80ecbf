"""The ONNX runtime by itself, without Triton and without a sandbox."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from inference.serving.decryption import PlainFile
from inference.serving.errors import RequestError
from inference.serving.memory import PlainBuffer
from inference.serving.runtimes.onnx import OnnxRuntime
from strongroom.interface import Interface
from tests.inference.artifact.onnx_models import LINEAR_INTERFACE, WEIGHTS, linear, model, value


def build(graph: bytes, interface: dict[str, Any]) -> tuple[OnnxRuntime, PlainFile]:
    buffer = PlainBuffer(len(graph))
    buffer.view[:] = graph
    file = PlainFile("model.onnx", "onnx", buffer)
    runtime = OnnxRuntime(threads=1)
    runtime.import_libraries()
    runtime.validate([file], Interface.parse(interface))
    runtime.build()
    return runtime, file


def never() -> bool:
    return False


def test_plain_file_is_gone_once_the_session_has_it():
    runtime, file = build(linear(), LINEAR_INTERFACE)

    assert len(file.data) == 0
    assert runtime._session._model_bytes == b""
    [y] = runtime.run([np.eye(2, 16, dtype=np.float32)], never)
    assert np.array_equal(y, WEIGHTS[:2])


def test_text_that_is_not_utf8_is_the_requests_fault():
    graph = model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [value("x", [None, 1], TensorProto.STRING)],
        [value("y", [None, 1], TensorProto.STRING)],
    )
    described = {
        "inputs": [{"name": "x", "kind": "text"}],
        "outputs": [{"name": "y", "kind": "text"}],
    }
    runtime, _ = build(graph, described)

    with pytest.raises(RequestError) as caught:
        runtime.run([np.array([[b"\xff"]], dtype=object)], never)

    assert caught.value.is_input_fault


def test_output_of_another_shape_than_promised_is_an_error():
    graph = model(
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)],
        [value("x", [None, 2])],
        [value("y", [None, 2])],
    )
    one = {"name": "x", "kind": "tensor", "datatype": "FP32", "shape": [2]}
    runtime, _ = build(graph, {"inputs": [one], "outputs": [one | {"name": "y"}]})

    with pytest.raises(RequestError, match="output_invalid"):
        runtime.run([np.ones((3, 2), np.float32)], never)


def test_error_of_the_library_is_not_quoted():
    graph = model(
        [helper.make_node("Gather", ["secret_table", "x"], ["y"])],
        [value("x", [None, 1], TensorProto.INT64)],
        [value("y", [None, 1])],
        [helper.make_tensor("secret_table", TensorProto.FLOAT, [2], [1.0, 2.0])],
    )
    described = {
        "inputs": [{"name": "x", "kind": "integer"}],
        "outputs": [{"name": "y", "kind": "number"}],
    }
    runtime, _ = build(graph, described)

    with pytest.raises(RequestError) as caught:
        runtime.run([np.array([[7]])], never)

    assert caught.value.reason_code == "model_failed"
    assert "7" not in caught.value.detail
    assert "secret_table" not in caught.value.detail
