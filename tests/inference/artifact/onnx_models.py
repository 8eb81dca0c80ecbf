"""Small ONNX graphs, honest and hostile, made with the `onnx` package."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

WEIGHTS = np.random.default_rng(7).normal(size=(16, 4)).astype(np.float32)
LINEAR_INTERFACE: dict[str, Any] = {
    "inputs": [{"name": "x", "kind": "tensor", "datatype": "FP32", "shape": [16]}],
    "outputs": [{"name": "y", "kind": "tensor", "datatype": "FP32", "shape": [4]}],
    "batch": {"max_size": 8, "leading_axis": True},
}


def value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    initializers: list[Any] | None = None,
    *,
    domains: tuple[str, ...] = ("",),
    functions: list[Any] | None = None,
) -> bytes:
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers or [])
    opsets = [helper.make_opsetid(one, 17 if one == "" else 1) for one in domains]
    made = helper.make_model(graph, opset_imports=opsets, functions=functions or [], ir_version=10)
    return bytes(made.SerializeToString())


def linear(weights: np.ndarray = WEIGHTS) -> bytes:
    """y = x @ weights, with a free batch axis."""
    return model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", [None, weights.shape[0]])],
        [value("y", [None, weights.shape[1]])],
        [numpy_helper.from_array(weights, "w")],
    )


def external_tensor(name: str, shape: list[int], **entries: str) -> Any:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in entries.items():
        tensor.external_data.add(key=key, value=text)
    return tensor


def linear_with_external(tensor: Any) -> bytes:
    """The linear graph, with its weights in another file."""
    return model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", [None, 16])],
        [value("y", [None, 4])],
        [tensor],
    )


def custom_op() -> bytes:
    return model(
        [helper.make_node("EvilOp", ["x"], ["y"], domain="evil.custom")],
        [value("x", [None, 16])],
        [value("y", [None, 16])],
        domains=("", "evil.custom"),
    )
