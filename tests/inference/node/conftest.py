"""One platform and one node for the tests of the agent; each test brings its own replica."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from inference.node.cache import ArtifactCache
from inference.node.control_plane import ControlPlane, KeyBroker
from inference.node.identity import IdentityStore
from strongroom.sealing.manifest import TestVector
from tests.inference.artifact.onnx_models import LINEAR_INTERFACE, WEIGHTS, linear
from tests.inference.node.platform import JOIN_TOKEN, Platform
from tests.inference.node.processes import NodeProcess
from tests.inference.serving.sealed import seal

X = [round(0.1 * index, 1) for index in range(16)]


def right_vector() -> TestVector:
    y = (X @ WEIGHTS).tolist()
    return TestVector({"x": X}, {"y": y}, 1e-3)


@pytest.fixture(scope="module")
def platform():
    platform = Platform()
    yield platform
    platform.close()


@pytest.fixture(scope="module")
def node(platform):
    # Short: a unix socket's address has 108 bytes.
    folder = Path(tempfile.mkdtemp(prefix="node-"))
    node = NodeProcess(folder, platform)
    node.start()
    platform.wait_triton(ready=True)
    yield node
    if node.process.poll() is None:
        node.stop()
    if os.environ.get("KEEP_NODE_LOG"):
        print(node.log())
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def control_plane(platform, tmp_path):
    identities = IdentityStore(tmp_path)
    with KeyBroker(platform.broker_url, identities) as broker:
        broker.join(join_token=JOIN_TOKEN, name="n")
    with ControlPlane(platform.web_url, identities) as control_plane:
        control_plane.enrol(name="n", triton={}, info={})
        yield control_plane


@pytest.fixture
def make_cache(control_plane, tmp_path):
    """Caches of nodes on one machine: one folder, and manifests of their own."""

    def make(limit_bytes=1 << 30, *, name="cache", node="node", mirror=None):
        return ArtifactCache(
            tmp_path / name,
            limit_bytes=limit_bytes,
            control_plane=control_plane,
            manifest_dir=tmp_path / f"manifests-{name}-{node}",
            mirror=mirror,
        )

    return make


@pytest.fixture
def make_sealed(tmp_path):
    def make(*vectors: TestVector):
        return seal(
            tmp_path / "parts",
            {"model.onnx": ("onnx", linear())},
            runtime="onnx",
            interface=LINEAR_INTERFACE,
            vectors=vectors,
        )

    return make


@pytest.fixture
def sealed(make_sealed):
    return make_sealed(right_vector())
