"""What says whether a process is well says so, and the contrary."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from django.db import connection

from embedded import postgres
from marketplace.core import probe
from marketplace.core.env import SettingError


@pytest.fixture
def state_dir(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("STRONGROOM_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def server():
    """Answers 200 at the paths in `good`, else 503; keeps the names under which it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.names.append(self.headers["Host"])
            self.send_response(200 if self.path in server.good else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.good, server.names = set(), []
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("name", ["worker", "beat"])
def test_a_process_is_well_while_it_comes_round(name: str, state_dir: Path, capsys) -> None:
    assert probe.main([name]) == 1
    assert "No such file" in capsys.readouterr().err

    probe.note(name)
    assert probe.main([name]) == 0

    path = state_dir / f"{name}.alive"
    assert path.stat().st_mode & 0o777 == 0o600
    now = time.time()
    os.utime(path, (now - probe.NOTE_AGE_MAX_S + 5,) * 2)
    assert probe.main([name]) == 0
    os.utime(path, (now - probe.NOTE_AGE_MAX_S - 5,) * 2)
    assert probe.main([name]) == 1
    assert "did not come round" in capsys.readouterr().err
    # It does again.
    probe.note(name)
    assert probe.main([name]) == 0


def test_one_process_says_nothing_about_another(state_dir: Path) -> None:
    probe.note("worker")

    assert probe.main(["worker"]) == 0
    assert probe.main(["beat"]) == 1


def test_signs_of_life_lie_where_nobody_else_writes(state_dir: Path) -> None:
    assert probe.make_state_dir().stat().st_mode & 0o777 == 0o700
    state_dir.chmod(0o777)
    with pytest.raises(SettingError, match="STRONGROOM_STATE_DIR"):
        probe.note("worker")
    state_dir.rmdir()
    # Somebody else's link to somewhere.
    state_dir.symlink_to(state_dir.parent)
    with pytest.raises(SettingError, match="STRONGROOM_STATE_DIR"):
        probe.note("worker")


def test_a_node_is_well_with_its_lock_and_its_triton(
    tmp_path: Path, server, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("STRONGROOM_NODE_DIR", str(tmp_path))
    monkeypatch.setenv("STRONGROOM_NODE_TRITON_HTTP_PORT", str(server.server_port))
    monkeypatch.setenv("STRONGROOM_NODE_TRITON_HOST", "0.0.0.0")
    server.good = {"/v2/health/ready"}
    lock = tmp_path / "node.lock"

    assert probe.main(["node"]) == 1
    lock.touch()
    assert probe.main(["node"]) == 1
    assert "no agent holds" in capsys.readouterr().err

    with lock.open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert probe.main(["node"]) == 0
        server.good = set()
        assert probe.main(["node"]) == 1
        assert "503" in capsys.readouterr().err
    server.good = {"/v2/health/ready"}
    assert probe.main(["node"]) == 1


def test_the_lock_is_looked_at_and_not_taken(tmp_path: Path) -> None:
    lock = tmp_path / "node.lock"
    lock.touch()
    other = tmp_path / "other.lock"
    other.touch()
    with other.open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert probe.is_locked(other)
        assert not probe.is_locked(lock)
    assert not probe.is_locked(other)


def test_the_site_is_asked_under_its_own_name(server, monkeypatch) -> None:
    monkeypatch.setenv("STRONGROOM_WEB_URL", "https://site.example")
    monkeypatch.setenv("STRONGROOM_WEB_LISTEN", f"0.0.0.0:{server.server_port}")

    assert probe.main(["web"]) == 1
    server.good = {"/health/ready"}
    assert probe.main(["web"]) == 0
    assert set(server.names) == {"site.example"}


@pytest.mark.parametrize("name", ["gateway", "keybroker"])
def test_a_server_is_asked_for_its_health(name: str, server, monkeypatch) -> None:
    variable = f"STRONGROOM_{name.upper()}_LISTEN"
    monkeypatch.setenv(variable, f"127.0.0.1:{server.server_port}")

    assert probe.main([name]) == 1
    server.good = {"/health"}
    assert probe.main([name]) == 0
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv(variable, f"127.0.0.1:{port}")
    assert probe.main([name]) == 1


@pytest.mark.django_db
def test_the_database_is_reached_or_not(monkeypatch, capsys, stand) -> None:
    for name in probe.DATABASE_URLS:
        monkeypatch.delenv(name, raising=False)
    assert probe.main(["database"]) == 1
    assert "STRONGROOM_DATABASE_URL is not set" in capsys.readouterr().err

    monkeypatch.setenv("STRONGROOM_GATEWAY_DATABASE_URL", stand)
    assert probe.main(["database"]) == 0
    monkeypatch.setenv("STRONGROOM_GATEWAY_DATABASE_URL", "postgresql://x:hunter2@127.0.0.1:1/x")
    assert probe.main(["database"]) == 1
    told = capsys.readouterr().err
    assert "OperationalError" in told
    assert "hunter2" not in told


@pytest.fixture
def stand() -> str:
    """Where the database of the tests is reached."""
    one = connection.settings_dict
    return postgres.url(int(one["PORT"]), one["USER"], one["PASSWORD"], one["NAME"])


def test_it_is_a_program(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    outcome = subprocess.run(
        [sys.executable, "-m", "marketplace.core.probe", "worker"],
        env={"PYTHONPATH": str(root), "STRONGROOM_STATE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.returncode == 1
    assert outcome.stderr.startswith("worker: ")
