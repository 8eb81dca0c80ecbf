"""How a node ends, and how it begins again after having been killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from inference.triton import processes
from tests.inference.artifact.onnx_models import WEIGHTS
from tests.inference.node.conftest import X
from tests.inference.node.platform import wait_for
from tests.inference.node.processes import NodeProcess

ROW = np.array([X], dtype=np.float32)


@pytest.fixture
def own_node(platform):
    folder = Path(tempfile.mkdtemp(prefix="node-"))
    node = NodeProcess(folder, platform)
    platform.reports.clear()
    platform.leases.clear()
    node.start()
    platform.wait_triton(ready=True)
    yield node
    if node.process.poll() is None:
        node.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def replica(platform, own_node, sealed):
    replica_id = platform.assign(sealed)
    platform.wait_state(replica_id, "ready")
    yield replica_id
    platform.unassign(replica_id)


def regions_of(pid: int) -> set[str]:
    """The shared memory that a process maps."""
    maps = Path(f"/proc/{pid}/maps").read_text().split()
    return {Path(one).name for one in maps if processes.REGION_PREFIX in one}


def test_a_node_that_is_told_to_stop_leaves_nothing(platform, own_node, replica):
    server_pid, stub_pid = own_node.server_pid(), own_node.stub_pid(replica)
    regions = regions_of(server_pid)
    assert regions

    assert own_node.stop() == 0

    assert not processes.is_alive(server_pid)
    assert not processes.is_alive(stub_pid)
    assert not any((processes.SHARED_MEMORY / one).exists() for one in regions)
    assert not (own_node.run_dir / "stub.sock").exists()
    assert list((own_node.folder / "node/triton/repository").iterdir()) == []
    assert set(platform.leases) == set(platform.released) & set(platform.leases)
    # The gateway was told before the server went.
    assert [one["triton"]["ready"] for one in platform.reports[-2:]] == [False, False]
    assert platform.reports[-1]["replicas"] == []
    assert (own_node.folder / "node/identity.json").stat().st_mode & 0o777 == 0o600


def test_a_killed_node_takes_its_server_along_and_comes_back(platform, own_node, replica):
    server_pid, stub_pid = own_node.server_pid(), own_node.stub_pid(replica)
    regions = regions_of(server_pid)
    enrolments = len(platform.enrolments)

    own_node.kill()

    # Nobody answers for weights in the clear any more, so they are gone.
    wait_for(lambda: not processes.is_alive(server_pid))
    wait_for(lambda: not processes.is_alive(stub_pid))
    # What is left behind is there without a sweep, and gone with it.
    assert all((processes.SHARED_MEMORY / one).exists() for one in regions)
    platform.reports.clear()
    own_node.start()
    platform.wait_state(replica, "ready")
    assert not any((processes.SHARED_MEMORY / one).exists() for one in regions)
    assert len(platform.enrolments) == enrolments
    assert np.allclose(own_node.infer(replica, ROW), ROW @ WEIGHTS, atol=1e-5)


def test_an_orphaned_server_is_stopped_by_the_next_node(platform, own_node, replica, tmp_path):
    """The kernel's signal can be missed; the pid file then still leads to the server."""
    own_node.stop()
    orphan = _start_orphan(own_node, tmp_path)

    platform.reports.clear()
    own_node.start()

    platform.wait_state(replica, "ready")
    assert not processes.is_alive(orphan)


def test_a_second_agent_does_not_start_in_the_same_folder(own_node):
    other = NodeProcess(own_node.folder, own_node.platform)
    other.start()

    assert other.process.wait(20) == 2
    assert "another agent runs in" in other.log()
    assert own_node.process.poll() is None


def test_a_node_without_a_web_starts_its_server_and_waits(platform, sealed):
    folder = Path(tempfile.mkdtemp(prefix="node-"))
    node = NodeProcess(folder, platform)
    platform.reports.clear()
    enrolments = len(platform.enrolments)
    platform.is_web_down = True
    try:
        node.start()
        wait_for(lambda: "triton.ready" in node.log())
        # The key broker has made a node of it; the web has not heard of it.
        wait_for(lambda: "node.joined" in node.log())
        assert len(platform.enrolments) == enrolments
    finally:
        platform.is_web_down = False
    try:
        platform.wait_triton(ready=True)
        assert (folder / "node/identity.json").stat().st_mode & 0o777 == 0o600
    finally:
        node.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _start_orphan(node: NodeProcess, folder: Path) -> int:
    """A tritonserver as an earlier node would have left it: alive, and known by its pid file."""
    script = f"""
import os
from pathlib import Path
from inference.triton.server import TritonConfig, TritonServer
config = TritonConfig(Path({str(node.folder / "node/triton")!r}), {node.http_port},
                      {node.grpc_port}, {node.metrics_port})
server = TritonServer(config, may_outlive_us=True)
server.start()
server.wait_ready()
print(server.pid, flush=True)
os.kill(os.getpid(), {int(signal.SIGKILL)})
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=node.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    pid = int(done.stdout)
    assert processes.is_alive(pid)
    assert os.getpgid(pid) == pid
    return pid
