"""Each process as its container starts it: its probe says when it is well, and when it is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from embedded import ports
from tests import servers
from tests.deploy.test_schema_number import PROCESSES
from tests.deploy.test_settings_refused import COMMANDS, ROOT, make_environments
from tests.gateway.processes import Wire

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]
READY_WITHIN_S = 120.0
END_WITHIN_S = 60.0
LISTEN = {"web": "STRONGROOM_WEB_LISTEN", "gateway": "STRONGROOM_GATEWAY_LISTEN"}
NOTED = ("worker", "beat")
HOUR_S = 3600
# As the site of the environments is called.
HOST = {"Host": "site.example"}


@dataclass
class Started:
    """One process and what it was told."""

    name: str
    env: dict[str, str]
    process: subprocess.Popen[bytes]
    log: Path

    def probe(self) -> int:
        """As the container's probe asks, from the same image and environment."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "marketplace.core.probe", self.name],
            env=self.env,
            cwd=ROOT,
            check=False,
            capture_output=True,
            timeout=60,
        ).returncode

    def wait_probe(self, wanted: int) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while self.probe() != wanted:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.2)

    def send(self, number: signal.Signals) -> None:
        """To all of it, as to a container."""
        os.killpg(self.process.pid, number)


@pytest.fixture
def start(database_urls, tmp_path) -> Iterator:
    """Starts a process, by another way to its database if one is given."""
    made: list[Started] = []

    def begin(name: str, database_port: int | None = None, **settings: str) -> Started:
        role, variable = PROCESSES[name]
        state = tmp_path / "state"
        env = make_environments(tmp_path)[name] | {
            variable: by_port(database_urls[role], database_port),
            "STRONGROOM_REDIS_URL": servers.provide().redis_url,
            "STRONGROOM_STATE_DIR": str(state),
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": f"{ROOT}:{ROOT}/sdk",
        }
        if name in LISTEN:
            env[LISTEN[name]] = f"127.0.0.1:{ports.choose()}"
        env |= settings
        log = tmp_path / f"{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", *COMMANDS[name]],
                env=env,
                cwd=ROOT,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        made.append(Started(name, env, process, log))
        return made[-1]

    yield begin
    for one in made:
        if one.process.poll() is None:
            one.send(signal.SIGKILL)
            one.process.wait(30)


def by_port(database_url: str, port: int | None) -> str:
    parts = urlsplit(database_url)
    netloc = f"{parts.username}:{parts.password}@127.0.0.1:{port or parts.port}"
    return parts._replace(netloc=netloc).geturl()


@pytest.fixture
def wire(database_urls) -> Iterator[Wire]:
    wire = Wire(urlsplit(database_urls["app"]).port)
    yield wire
    wire.close()


@pytest.mark.parametrize("name", ["web", "worker", "beat", "gateway"])
def test_its_probe_tells_when_it_is_well_and_it_ends_when_it_is_told(start, name):
    started = start(name)
    assert started.probe() == 1  # Nobody is well at once.
    started.wait_probe(0)

    started.process.send_signal(signal.SIGTERM)
    assert started.process.wait(END_WITHIN_S) == 0, started.log.read_text()[-3000:]
    if name in LISTEN:
        assert started.probe() == 1


def test_a_web_comes_up_without_redis_and_key_broker(start):
    web = start("web", STRONGROOM_REDIS_URL="redis://127.0.0.1:1/0")
    web.wait_probe(0)
    assert httpx.get(f"http://{web.env[LISTEN['web']]}/health", headers=HOST).status_code == 200


def test_a_web_without_its_database_is_alive_and_gets_no_requests(start, wire):
    web = start("web", wire.port)
    web.wait_probe(0)
    assert ask(web, "live") == ask(web, "ready") == 200

    wire.cut()
    assert ask(web, "ready") == 503
    assert ask(web, "live") == 200
    assert web.probe() == 1

    wire.mend()
    web.wait_probe(0)


def ask(web: Started, what: str) -> int:
    """Its answer, as the platform's prober gets it: by the site's name."""
    url = f"http://{web.env[LISTEN['web']]}/health/{what}"
    return httpx.get(url, headers=HOST, timeout=30).status_code


@pytest.mark.parametrize("name", NOTED)
def test_one_that_hangs_is_found(start, name):
    started = start(name)
    started.wait_probe(0)

    # It does not come round any more; an hour later its note is as old.
    started.send(signal.SIGSTOP)
    note = Path(started.env["STRONGROOM_STATE_DIR"]) / f"{name}.alive"
    old_s = time.time() - HOUR_S
    os.utime(note, (old_s, old_s))
    assert started.probe() == 1

    started.send(signal.SIGCONT)
    started.wait_probe(0)
