"""One real tritonserver with a plain model for these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedded import ports
from inference.triton import repository
from inference.triton.control import TritonControl
from inference.triton.server import TritonConfig, TritonServer
from marketplace.core.ids import new_id
from strongroom.interface import Interface

TOY = Path(__file__).with_name("toy_model.py")
INTERFACE = Interface.parse(
    {
        "inputs": [
            {"name": "x", "kind": "tensor", "datatype": "FP32", "shape": [3]},
            {"name": "text", "kind": "text", "required": False, "default": ""},
        ],
        "outputs": [
            {"name": "y", "kind": "tensor", "datatype": "FP32", "shape": [3]},
            {"name": "echo", "kind": "text"},
            {"name": "best", "kind": "label", "source": "y", "labels": ["a", "b", "c"]},
        ],
        "batch": {"max_size": 4},
    }
)


def make_config(folder: Path) -> TritonConfig:
    http_port = ports.choose()
    grpc_port = ports.choose([http_port])
    metrics_port = ports.choose([http_port, grpc_port])
    return TritonConfig(folder, http_port, grpc_port, metrics_port, exit_timeout_s=2)


def write_toy(config: TritonConfig, *, purpose: str = "serve") -> str:
    parameters = repository.Parameters(new_id(), Path("/nowhere/stub.sock"), purpose)
    return repository.write_model(config.repository_dir, INTERFACE, parameters, model_source=TOY)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = TritonServer(make_config(tmp_path_factory.mktemp("triton")))
    server.start()
    server.wait_ready()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def control(server):
    with TritonControl(server.config.grpc_url, server.config.secret) as control:
        yield control


@pytest.fixture(scope="session")
def toy(server, control):
    """The name of a loaded model."""
    name = write_toy(server.config)
    control.load(name, timeout_s=30)
    return name
