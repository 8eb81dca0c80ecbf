from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from inference.triton import processes
from inference.triton.control import TritonControl
from inference.triton.errors import TritonStartError
from inference.triton.server import (
    RESTRICTED_APIS,
    SECRET_HEADER,
    TritonServer,
    find_wheel,
    prepare_backends,
    stop_orphan,
)
from tests.inference.triton.conftest import make_config, write_toy


def call(server, path, *, secret=None, body=b"{}"):
    request = urllib.request.Request(server.config.http_url + path, body)
    if secret is not None:
        request.add_header(SECRET_HEADER, secret)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def environment(pid):
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


@pytest.fixture
def own_server(tmp_path):
    server = TritonServer(make_config(tmp_path / "triton"))
    server.start()
    server.wait_ready()
    yield server
    server.stop()


@pytest.mark.parametrize(
    "path",
    [
        "/v2/repository/index",
        "/v2/repository/models/x/load",
        "/v2/systemsharedmemory/region/x/register",
        "/v2/logging",
        "/v2/trace/setting",
    ],
)
def test_control_apis_want_the_secret(server, path):
    assert call(server, path) == 403
    assert call(server, path, secret="wrong") == 403
    assert call(server, path, secret=server.config.secret) != 403


def test_predictions_want_no_secret(server, toy):
    body = {
        "inputs": [
            {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]},
            {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["hi"]},
        ]
    }

    assert call(server, f"/v2/models/{toy}/infer", body=json.dumps(body).encode()) == 200
    assert "model-config" in RESTRICTED_APIS
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{server.config.http_url}/v2/models/{toy}/config", timeout=5)


def test_it_listens_on_loopback_only(server):
    listening = {
        (one.laddr.ip.removeprefix("::ffff:"), one.laddr.port)
        for one in psutil.Process(server.pid).net_connections(kind="inet")
        if one.status == psutil.CONN_LISTEN
    }

    config = server.config
    ports = (config.http_port, config.grpc_port, config.metrics_port)
    assert listening == {("127.0.0.1", port) for port in ports}


_OURS = (b"STRONGROOM", b"DJANGO", b"PG")


def test_it_knows_no_secret_of_ours(monkeypatch, tmp_path):
    monkeypatch.setenv("STRONGROOM_SECRET_KEY", "topsecret")
    chosen = {"STRONGROOM_ENV": "development", "STRONGROOM_SANDBOX": "seccomp-only"}
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    server = TritonServer(make_config(tmp_path / "triton"))
    server.start()
    try:
        server.wait_ready()
        known = [one for one in environment(server.pid) if one.startswith(_OURS)]
        # What decides about the sandbox reaches the process that enters it, and no more.
        assert sorted(known) == [f"{name}={chosen[name]}".encode() for name in sorted(chosen)]
        assert b"HF_HUB_OFFLINE=1" in environment(server.pid)
        assert b"ORT_DISABLE_TELEMETRY=1" in environment(server.pid)
        limits = Path(f"/proc/{server.pid}/limits").read_text().splitlines()
        core = next(line.split()[4:6] for line in limits if "core file" in line)
        assert core == ["0", "0"]
        assert list(Path(f"/proc/{server.pid}/cwd").iterdir()) == []
    finally:
        server.stop()


def test_stop_leaves_no_process_and_no_shared_memory(own_server):
    config = own_server.config
    name = write_toy(config)
    with TritonControl(config.grpc_url, config.secret) as control:
        control.load(name, timeout_s=30)
    (stub_pid,) = own_server.list_stubs()
    server_pid = own_server.pid

    own_server.stop()

    assert not processes.is_alive(server_pid)
    assert not processes.is_alive(stub_pid)
    assert not config.pid_path.exists()


def test_loaders_die_with_a_killed_server_and_the_sweep_takes_their_memory(own_server):
    config = own_server.config
    name = write_toy(config)
    with TritonControl(config.grpc_url, config.secret) as control:
        control.load(name, timeout_s=30)
    (stub_pid,) = own_server.list_stubs()
    maps = Path(f"/proc/{own_server.pid}/maps").read_text().split()
    regions = {Path(one) for one in maps if processes.REGION_PREFIX in one}
    assert regions
    # A living server's regions stay.
    processes.sweep_shared_memory()
    assert all(region.exists() for region in regions)

    own_server.process.kill()
    own_server.process.wait()

    deadline = time.monotonic() + 5
    while processes.is_alive(stub_pid):
        assert time.monotonic() < deadline, "the loader outlives its server"
        time.sleep(0.02)
    # Without the sweep they stay.
    assert all(region.exists() for region in regions)
    assert regions <= set(own_server.clean_up())
    assert not any(region.exists() for region in regions)


def test_an_orphan_is_found_by_its_pid_file(own_server):
    pid = own_server.pid

    assert stop_orphan(own_server.config)

    assert not processes.is_alive(pid)
    assert not stop_orphan(own_server.config)


def test_a_stranger_with_the_number_of_the_pid_file_is_left_alone(tmp_path):
    config = make_config(tmp_path)
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        start_ticks = processes.find_start_ticks(stranger.pid)
        for document in (
            {"pid": stranger.pid, "start_ticks": start_ticks},
            {"pid": stranger.pid, "start_ticks": 1},
            {"pid": "x"},
            [],
        ):
            config.pid_path.write_text(json.dumps(document))
            assert not stop_orphan(config)
        assert stranger.poll() is None
    finally:
        stranger.send_signal(signal.SIGKILL)
        stranger.wait()


def test_a_server_that_cannot_listen_says_so(server, tmp_path):
    taken = make_config(tmp_path / "other")
    object.__setattr__(taken, "http_port", server.config.http_port)
    other = TritonServer(taken)
    other.start()
    try:
        other.process.wait(20)
        # The first one answers on that port, but it is not this process.
        assert other.is_ready()
        with pytest.raises(TritonStartError, match="tritonserver ended"):
            other.wait_ready(timeout_s=10)
    finally:
        other.stop()


def test_backends_are_put_together_again_for_another_wheel(tmp_path):
    target = prepare_backends(find_wheel(), tmp_path / "backends")
    stub = target / "python" / processes.STUB_PROGRAM
    inode = stub.stat().st_ino
    assert prepare_backends(find_wheel(), target) == target
    assert stub.stat().st_ino == inode

    (target / "installed.json").write_text('{"python": "3.9"}')

    prepare_backends(find_wheel(), target)
    assert json.loads((target / "installed.json").read_text())["python"] != "3.9"
    assert os.access(stub, os.X_OK)
