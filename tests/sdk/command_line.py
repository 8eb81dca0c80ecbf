"""A person at the command line of the SDK, with a small model in a folder."""

from __future__ import annotations

from pathlib import Path

import onnx
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from strongroom.cli import main
from tests.sdk.platform_server import PASSWORD, TOKEN, Platform

CANARY = b"canary-that-must-never-leave-this-machine-in-plain"
INIT_FLAGS = [
    "--owner=acme",
    "--name=digits",
    "--title=Digits",
    "--task=image-classification",
    "--licence=Apache-2.0",
    "--price=0.0005",
]


def run(*args: object, code: int = 0, **options: object) -> Result:
    """Run a command, which must end with this exit code and never show the token."""
    result = CliRunner().invoke(main, [str(one) for one in args], **options)
    assert result.exit_code == code, (result.output, result.exception)
    assert TOKEN not in result.output
    return result


def log_in(platform: Platform) -> Result:
    """Log in as the person of the tests."""
    return run("login", "--url", platform.url, "--email=ada@example.com", f"--password={PASSWORD}")


def write_model(folder: Path, weights_count: int) -> None:
    """Write an ONNX model with files of external data: one part more than those files."""
    weights = [external_tensor(f"weights{i}.bin") for i in range(weights_count)]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["scores"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, folder / "model.onnx")
    for i in range(weights_count):
        (folder / f"weights{i}.bin").write_bytes(CANARY * 1000 + bytes([i]))


def external_tensor(location: str) -> TensorProto:
    """A tensor whose bytes lie in a file beside the model."""
    tensor = TensorProto(name=location, data_type=TensorProto.UINT8, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="length", value="4")
    return tensor
