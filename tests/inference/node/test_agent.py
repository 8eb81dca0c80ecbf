"""The agent as a process, with a real tritonserver and real sealed models."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import signal
import socket
import tempfile
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from inference.serving import landlock
from inference.triton import processes, repository
from inference.triton.errors import ModelLoadError
from inference.triton.tensors import Tensor
from marketplace.core.clock import utc_now
from marketplace.core.errors import MarketplaceError
from marketplace.core.ids import new_id
from strongroom.sealing.manifest import TestVector
from strongroom.sealing.policy import Policy
from tests.inference.artifact.onnx_models import WEIGHTS
from tests.inference.node.conftest import X, right_vector
from tests.inference.node.platform import Platform, wait_for
from tests.inference.node.processes import NodeProcess

ROW = np.array([X], dtype=np.float32)
WAY = {"assigned", "fetching", "starting", "decrypting", "validating", "loading", "warming"}


@pytest.fixture
def replica(platform, node, sealed):
    """A replica that is ready; gone again after the test."""
    replica_id = platform.assign(sealed)
    platform.wait_state(replica_id, "ready")
    yield replica_id
    platform.unassign(replica_id)


@pytest.fixture
def assign(platform, node):
    """Assign versions; they are no longer wanted after the test."""
    assigned = []

    def run(sealed, purpose="serve"):
        assigned.append(platform.assign(sealed, purpose))
        return assigned[-1]

    yield run
    for replica_id in assigned:
        platform.unassign(replica_id)


def cached_parts(node, sealed) -> list[Path]:
    folder = node.folder / "node/cache/parts"
    paths = [folder / part.sha256 for file in sealed.manifest.files for part in file.parts]
    return [one for one in paths if one.exists()]


def test_an_assigned_replica_is_loaded_and_answers(platform, node, sealed, replica):
    answer = node.infer(replica, ROW)

    assert np.allclose(answer, ROW @ WEIGHTS, atol=1e-5)
    assert set(platform.states(replica)) <= WAY | {"ready"}
    report = platform.merged[replica]
    assert report["validation"]["parameters"] == 64
    assert report["load"]["sandbox"]["seccomp"] is True
    # Said once, not in each report.
    wait_for(lambda: "report" not in platform.line(replica))
    # What lies on the node's disk is what lay on the platform's.
    assert [one.read_bytes() for one in cached_parts(node, sealed)] == [
        one.read_bytes() for one in sealed.parts
    ]


def test_the_node_says_where_its_server_is(platform, node):
    report = platform.reports[-1]

    assert report["triton"] == {
        "ready": True,
        "version": "2.51.0",
        "http_url": f"http://127.0.0.1:{node.http_port}",
        "grpc_url": f"127.0.0.1:{node.grpc_port}",
        "metrics_url": f"http://127.0.0.1:{node.metrics_port}/metrics",
    }
    assert report["info"]["cpu_count"] == os.cpu_count()
    assert abs(datetime.fromisoformat(report["at"]) - utc_now()) < timedelta(minutes=2)
    assert {"memory_total_bytes", "memory_available_bytes", "disk_free_bytes"} <= set(
        report["info"]
    )


def test_a_replica_that_is_not_wanted_is_unloaded(platform, node, sealed):
    replica_id = platform.assign(sealed)
    platform.wait_state(replica_id, "ready")
    stub_pid = node.stub_pid(replica_id)
    lease_id = next(one for one, of in platform.leases.items() if of == replica_id)

    platform.unassign(replica_id)

    wait_for(lambda: "unloaded" in platform.states(replica_id))
    # The model is gone before it is said to be.
    assert platform.states(replica_id)[-2:] == ["unloading", "unloaded"]
    assert not processes.is_alive(stub_pid)
    assert lease_id in platform.released
    assert not (node.folder / f"node/triton/repository/r{UUID(replica_id).hex}").exists()
    wait_for(lambda: not platform.line(replica_id))


def test_test_vectors_are_run(platform, replica):
    work_id = platform.give_work(replica, "test")

    result = wait_for(lambda: platform.results.get(work_id))

    assert result == {"state": "succeeded", "result": {"vectors": 1, "passed": 1}}


def test_a_wrong_test_vector_fails_with_its_place(platform, make_sealed, assign):
    wrong = TestVector({"x": X}, {"y": [0.0, 0.0, 0.0, 0.0]}, 1e-3)
    replica_id = assign(make_sealed(right_vector(), wrong), "scan")
    platform.wait_state(replica_id, "ready")
    work_id = platform.give_work(replica_id, "test")

    result = wait_for(lambda: platform.results.get(work_id))

    assert (result["state"], result["reason_code"]) == ("failed", "test_vector_mismatch")
    assert (result["result"]["vectors"], result["result"]["passed"]) == (2, 1)
    assert result["result"]["failures"][0]["vector"] == 1
    assert result["result"]["detail"].startswith("Test vector 1, /y/0: Is ")
    assert platform.lease_requests[-1]["purpose"] == "scan"


def test_the_benchmark_measures_every_batch_size(platform, replica):
    work_id = platform.give_work(replica, "benchmark")

    result = wait_for(lambda: platform.results.get(work_id), timeout_s=60)

    assert result["state"] == "succeeded"
    certificate = result["result"]
    assert [one["batch"] for one in certificate["points"]] == [1, 2, 4, 8]
    assert all(0 < one["p50_ms"] <= one["p95_ms"] for one in certificate["points"])
    assert all(one["rows_per_s"] > 0 for one in certificate["points"])
    assert certificate["load_ms"] > 0
    assert certificate["memory_bytes"] > 1 << 20
    assert certificate["triton_version"] == "2.51.0"
    assert certificate["cpu_count"] == os.cpu_count()


def test_a_killed_server_comes_back_with_its_replicas(platform, node, replica):
    stub_pid, server_pid = node.stub_pid(replica), node.server_pid()
    leases = len(platform.leases)

    os.kill(server_pid, signal.SIGKILL)

    platform.wait_triton(ready=False)
    # A gateway that reads this stops routing here.
    assert platform.line(replica)["state"] == "assigned"
    # The loader does not outlive its server with the weights.
    wait_for(lambda: not processes.is_alive(stub_pid))
    platform.wait_triton(ready=True)
    platform.wait_state(replica, "ready")
    assert node.server_pid() != server_pid
    assert len(platform.leases) == leases + 1
    assert np.allclose(node.infer(replica, ROW), ROW @ WEIGHTS, atol=1e-5)


def test_a_killed_loader_is_replaced(platform, node, replica):
    server_pid, stub_pid = node.server_pid(), node.stub_pid(replica)

    os.kill(stub_pid, signal.SIGKILL)

    wait_for(lambda: platform.states(replica).count("ready") == 2)
    assert node.server_pid() == server_pid
    assert node.stub_pid(replica) not in (0, stub_pid)
    assert np.allclose(node.infer(replica, ROW), ROW @ WEIGHTS, atol=1e-5)


def test_a_loader_killed_under_requests_is_replaced(platform, node, sealed):
    """Triton never lets go of a model that requests died with; it must not be waited for."""
    replica_id = platform.assign(sealed)
    platform.wait_state(replica_id, "ready")
    server_pid, stub_pid = node.server_pid(), node.stub_pid(replica_id)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        stop, answered = threading.Event(), threading.Semaphore(0)
        for _ in range(4):
            pool.submit(infer_until, stop, node, replica_id, answered)
        try:
            for _ in range(40):
                assert answered.acquire(timeout=10)

            os.kill(stub_pid, signal.SIGKILL)

            wait_for(lambda: platform.states(replica_id).count("ready") == 2)
        finally:
            stop.set()
    assert node.server_pid() == server_pid
    assert node.stub_pid(replica_id) not in (0, stub_pid)
    assert np.allclose(node.infer(replica_id, ROW), ROW @ WEIGHTS, atol=1e-5)
    # The new one leaves when it is told to, although the old one never did.
    platform.unassign(replica_id)
    wait_for(lambda: "unloaded" in platform.states(replica_id))


def infer_until(stop, node, replica_id, answered):
    name, tensor = f"r{UUID(replica_id).hex}", Tensor("x", "FP32", ROW.shape, ROW)
    with node.control() as control:
        while not stop.is_set():
            with suppress(MarketplaceError):
                control.infer(name, [tensor], ["y"], timeout_s=5)
                answered.release()


def test_a_refused_lease_fails_the_replica_with_its_code(platform, node, sealed, assign):
    platform.refuse_lease = "version_not_approved"
    try:
        replica_id = assign(sealed)
        line = platform.wait_state(replica_id, "failed")
    finally:
        platform.refuse_lease = ""

    assert line["reason_code"] == "version_not_approved"
    assert "ready" not in platform.states(replica_id)
    assert node.stub_pid(replica_id) == 0
    assert sum(one["replica_id"] == replica_id for one in platform.lease_requests) == 1


def test_a_lease_that_is_not_renewed_takes_the_replica_down(platform, node, sealed, assign):
    platform.lease_ttl_s = 3.0
    try:
        replica_id = assign(sealed)
        platform.wait_state(replica_id, "ready")
        stub_pid = node.stub_pid(replica_id)
        lease_id = next(one for one, of in platform.leases.items() if of == replica_id)
        wait_for(lambda: lease_id in platform.renewals)
        # As long as it is renewed it serves, well past its first end.
        wait_for(lambda: platform.renewals.count(lease_id) >= 4)
        assert node.infer(replica_id, ROW).shape == (1, 4)

        platform.refuse_renewal = "lease_lost"

        line = platform.wait_state(replica_id, "failed")
    finally:
        platform.lease_ttl_s, platform.refuse_renewal = 600.0, ""
    assert line["reason_code"] == "lease_lost"
    assert platform.states(replica_id)[-2:] == ["unloading", "failed"]
    assert not processes.is_alive(stub_pid)


def test_a_broker_that_is_away_longer_than_the_lease_takes_the_replica_down(
    platform, node, sealed, assign
):
    platform.lease_ttl_s = 3.0
    try:
        replica_id = assign(sealed)
        platform.wait_state(replica_id, "ready")
        platform.is_broker_down = True

        line = platform.wait_state(replica_id, "failed")
    finally:
        platform.lease_ttl_s, platform.is_broker_down = 600.0, False
    assert line["reason_code"] == "lease_expired"
    assert node.stub_pid(replica_id) == 0


@pytest.mark.parametrize("reaches_broker", [True, False])
def test_a_node_that_does_not_hear_of_a_revocation_loses_the_replica_all_the_same(
    platform, node, sealed, assign, reaches_broker
):
    """At the next renewal, which is refused; or when the lease ends by the node's own clock."""
    platform.lease_ttl_s = 3.0
    try:
        replica_id = assign(sealed)
        platform.wait_state(replica_id, "ready")
        stub_pid = node.stub_pid(replica_id)
        platform.is_web_down = True
        platform.refuse_renewal = "shredded"
        platform.is_broker_down = not reaches_broker

        wait_for(lambda: not processes.is_alive(stub_pid))
        # Nor is it loaded again, while nobody says that it is wanted no more.
        assert node.stub_pid(replica_id) == 0
    finally:
        platform.lease_ttl_s, platform.refuse_renewal = 600.0, ""
        platform.is_web_down = platform.is_broker_down = False
    expected = "lease_lost" if reaches_broker else "lease_expired"
    assert platform.wait_state(replica_id, "failed")["reason_code"] == expected


def test_a_web_that_is_away_changes_nothing(platform, node, replica):
    platform.is_web_down = True
    try:
        wait_for(lambda: "platform.trouble" in node.log().split(replica)[-1])
        assert np.allclose(node.infer(replica, ROW), ROW @ WEIGHTS, atol=1e-5)
    finally:
        platform.is_web_down = False

    count = len(platform.reports)
    wait_for(lambda: len(platform.reports) > count)
    assert platform.line(replica)["state"] == "ready"
    assert platform.states(replica).count("ready") == 1


def test_a_spoiled_part_is_fetched_again(platform, sealed, assign):
    platform.spoiled_parts = 1

    replica_id = assign(sealed)

    platform.wait_state(replica_id, "ready")
    assert platform.parts_sent.count((sealed.manifest.artifact_id, 0, 0)) == 2


def test_a_part_that_stays_spoiled_fails_the_replica(platform, node, sealed, assign):
    platform.spoiled_parts = 100
    try:
        replica_id = assign(sealed)
        line = platform.wait_state(replica_id, "failed")
    finally:
        platform.spoiled_parts = 0

    assert line["reason_code"] == "artifact_corrupt"
    assert cached_parts(node, sealed) == []
    # No key was asked for.
    assert all(one["replica_id"] != replica_id for one in platform.lease_requests)


def test_a_part_that_went_bad_on_the_disk_is_fetched_again(platform, node, sealed, assign):
    first = platform.assign(sealed)
    platform.wait_state(first, "ready")
    platform.unassign(first)
    wait_for(lambda: "unloaded" in platform.states(first))
    part = cached_parts(node, sealed)[0]
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)

    second = assign(sealed)

    platform.wait_state(second, "ready")
    assert "cache.damaged" in node.log()
    assert platform.reports[-1]["info"]["cache"]["damage"] == 1
    assert part.read_bytes() == sealed.parts[0].read_bytes()


def test_parts_that_are_here_are_not_fetched_again(platform, sealed, assign):
    for _ in range(2):
        replica_id = assign(sealed)
        platform.wait_state(replica_id, "ready")

    assert platform.parts_sent.count((sealed.manifest.artifact_id, 0, 0)) == 1


def test_a_model_that_the_loader_refuses_fails_with_its_code(platform, node, sealed, assign):
    # Another name of the input than the graph has.
    interface = {**sealed.manifest.interface}
    interface["inputs"] = [{**interface["inputs"][0], "name": "z"}]
    wrong = sealed.with_manifest(interface=interface, test_vectors=())

    replica_id = assign(wrong)

    line = platform.wait_state(replica_id, "failed")
    assert line["reason_code"] == "interface_mismatch"
    assert line["detail"]
    # The key was lent for a look only.
    lent = [one for one, of in platform.leases.items() if of == replica_id]
    assert len(lent) == 1
    assert set(lent) <= set(platform.released)


def test_a_loader_of_a_replica_that_is_not_wanted_gets_nothing(platform, node, sealed):
    """Somebody who can write models into our Triton starts a loader of ours."""
    replica_id = new_id()
    folder = node.folder / "node/triton/repository"
    parameters = repository.Parameters(replica_id, node.run_dir / "stub.sock")
    name = repository.write_model(folder, sealed.manifest.parsed_interface, parameters)

    with node.control() as control, pytest.raises(ModelLoadError) as caught:
        control.load(name, timeout_s=30)

    assert caught.value.detail == "RuntimeError: replica_not_loading"
    assert all(one["replica_id"] != str(replica_id) for one in platform.lease_requests)
    repository.remove_model(folder, name)


def test_a_stranger_on_the_socket_gets_nothing(platform, node, sealed, assign):
    """Same user, right words, right moment: but no child of our tritonserver."""
    platform.is_broker_down = True
    try:
        replica_id = assign(sealed)
        platform.wait_state(replica_id, "starting", "decrypting")
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(node.run_dir / "stub.sock"))
            stranger.sendall(b'{"hello":"%s","pid":%d}\n' % (replica_id.encode(), os.getpid()))
            assert stranger.recv(4096) == b'{"refused":"peer_refused"}\n'
    finally:
        platform.is_broker_down = False
    # The loader itself was not disturbed, and the broker's absence was bridged.
    platform.wait_state(replica_id, "ready")


def test_a_manifest_that_was_not_signed_is_refused(platform, sealed, assign, monkeypatch):
    real = platform._artifact

    def forge(version_id, path):
        answer = real(version_id, path)
        if not path:
            other = replace(sealed.manifest, licence="MIT").canonical_bytes()
            answer["manifest"] = other.decode()
        return answer

    monkeypatch.setattr(platform, "_artifact", forge)

    line = platform.wait_state(assign(sealed), "failed")

    assert line["reason_code"] == "signature_invalid"


def test_a_token_that_is_no_longer_known_leads_to_a_new_enrolment(platform, node, replica):
    count, key = len(platform.enrolments), platform.public_key

    platform.token_sha256 = "revoked"

    wait_for(lambda: len(platform.enrolments) > count)
    assert platform.public_key == key
    count = len(platform.reports)
    wait_for(lambda: len(platform.reports) > count)
    assert platform.line(replica)["state"] == "ready"


def test_a_version_that_demands_more_walls_is_not_even_fetched(platform, node, sealed, tmp_path):
    folder = Path(tempfile.mkdtemp(prefix="node-"))
    own_platform = Platform()
    weak = NodeProcess(
        folder, own_platform, STRONGROOM_ENV="development", STRONGROOM_SANDBOX="seccomp-only"
    )
    weak.start()
    try:
        own_platform.wait_triton(ready=True)
        found = own_platform.reports[-1]["info"]["sandbox"]
        assert (found["mode"], found["landlock_abi"]) == ("seccomp-only", landlock.find_abi())

        replica_id = own_platform.assign(sealed.with_manifest(policy=Policy(sandbox="landlock")))

        line = own_platform.wait_state(replica_id, "failed")
        assert line["reason_code"] == "landlock_required"
        assert own_platform.parts_sent == []
        assert own_platform.lease_requests == []
    finally:
        weak.stop()
        own_platform.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_node_with_landlock_serves_it(platform, node, sealed, assign):
    assert platform.reports[-1]["info"]["sandbox"]["mode"] == "full"

    replica_id = assign(sealed.with_manifest(policy=Policy(sandbox="landlock")))

    platform.wait_state(replica_id, "ready")
