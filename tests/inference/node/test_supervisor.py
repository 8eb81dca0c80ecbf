from __future__ import annotations

import os
import signal
import time

import pytest

from inference.node import supervisor as module
from inference.node.supervisor import TritonSupervisor
from inference.triton import processes
from inference.triton.control import TritonControl
from inference.triton.errors import TritonStartError
from inference.triton.server import TritonServer
from tests.inference.node.platform import wait_for
from tests.inference.triton.conftest import make_config


@pytest.fixture
def server(tmp_path):
    server = TritonServer(make_config(tmp_path / "triton"))
    yield server
    server.stop()


@pytest.fixture
def events():
    return []


@pytest.fixture
def supervisor(server, events):
    with TritonControl(server.config.grpc_url, server.config.secret) as control:
        yield TritonSupervisor(
            server,
            control,
            on_lost=lambda: events.append("lost"),
            on_change=lambda: events.append("change"),
        )


def tick_until(supervisor, look, timeout_s=20.0):
    def once():
        supervisor.tick()
        return look()

    wait_for(once, timeout_s=timeout_s)


def test_a_server_that_hangs_is_replaced(supervisor, server, events, monkeypatch):
    tick_until(supervisor, lambda: supervisor.is_ready)
    assert supervisor.version == "2.51.0"
    assert events == ["change"]
    first = server.pid
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    monkeypatch.setattr(module, "UNANSWERED_MAX", 1)
    tick_until(supervisor, lambda: True)
    assert server.pid == first

    os.kill(first, signal.SIGSTOP)

    tick_until(supervisor, lambda: "lost" in events)
    assert not supervisor.is_ready
    assert not processes.is_alive(first)
    tick_until(supervisor, lambda: supervisor.is_ready)
    assert server.pid != first


def test_a_server_that_cannot_be_started_is_tried_less_and_less(
    supervisor, server, events, monkeypatch
):
    tried = []

    def fail():
        tried.append(time.monotonic())
        raise TritonStartError("no stub")

    monkeypatch.setattr(server, "start", fail)
    begin = time.monotonic()
    while time.monotonic() - begin < 1.2:
        supervisor.tick()
        time.sleep(0.01)

    # At once and after about a second; not a hundred times.
    assert len(tried) == 2
    assert events == []
    assert not supervisor.is_ready


def test_a_server_that_never_gets_ready_is_replaced(supervisor, server, monkeypatch):
    monkeypatch.setattr(TritonServer, "is_ready", lambda _: False)
    supervisor.tick()
    first = server.pid
    monkeypatch.setattr(module, "START_TIMEOUT_S", 0.0)

    tick_until(supervisor, lambda: server.pid not in (None, first))

    assert not processes.is_alive(first)
