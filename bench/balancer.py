"""One address for several gateways: HAProxy, with rules that never charge anybody twice.

A request that could not even be delivered goes to the next gateway. One whose answer did not come
is sent again only if it has an Idempotency-Key: only then is a second run not a second charge. The
site and the key broker may have an address of the same kind: what changes something at the site is
not sent again, and whatever goes to a key broker is passed on unread, with its TLS.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from embedded import ports

Row = dict[str, str]

REQUEST_ID = "x-load-request"
_START_TIMEOUT_S = 60.0
_STATE_TIMEOUT_S = 60.0
_CHECKS = """
  option httpchk GET /health/ready
  http-check expect status 200
  default-server check inter 200ms fall 2 rise 1"""
_RETRIES = """
  retries 3
  option redispatch 1
  retry-on conn-failure empty-response response-timeout
  http-request disable-l7-retry unless { req.hdr(idempotency-key) -m found }"""
_NO_RETRIES = """
  retries 0"""
_CONFIG = """
global
  stats socket {folder}/control level admin
  log stdout format raw local0
defaults
  mode http
  log global
  timeout connect 5s
  timeout check 5s
  timeout client 60s
  timeout server 60s
  timeout queue 5s
  # An idle connection may die unseen; each request gets one of its own. And on a client's second
  # request HAProxy neither answers nor writes down that a server went away: the client would have
  # to send it again, with a key or without.
  option httpclose
frontend one
  bind 127.0.0.1:{port}
  capture request header {request_id} len 64
  log-format "SERVED %[capture.req.hdr(0)] %s %ST %rc"
  default_backend gateways
backend gateways
  balance roundrobin{retries}{checks}
{servers}
{further}"""
_SITES = """
listen sites
  bind 127.0.0.1:{port}
  balance roundrobin
  retries 3
  option redispatch 1
  retry-on conn-failure empty-response response-timeout
  http-request disable-l7-retry unless METH_GET
  option httpchk
  http-check send meth GET uri /health/ready ver HTTP/1.1 hdr Host 127.0.0.1
  http-check expect status 200
  default-server check inter 500ms fall 2 rise 1
{servers}
"""
_BROKERS = """
listen brokers
  mode tcp
  bind 127.0.0.1:{port}
  balance roundrobin
  retries 3
  option redispatch 1
  default-server check inter 200ms fall 2 rise 1
{servers}
"""


@dataclass(frozen=True, slots=True)
class Served:
    """What the balancer noted of one request.

    Args:
        server: The last one that it was sent to.
        status: Of the answer; -1 for none.
        was_moved: Whether another server had it before.
    """

    server: str
    status: int
    was_moved: bool


class Balancer:
    """A running HAProxy in front of gateways of this machine.

    Args:
        folder: For its configuration, its log and its control socket; a short path.
        servers: Port by name.
        has_retries: Without, it serves as a negative control.
        has_checks: The same.
        sites: Webs, by name; `site_url` is their one address.
        brokers: Key brokers, by name; they are at `broker_port`.
    """

    def __init__(
        self,
        folder: Path,
        servers: Mapping[str, int],
        *,
        has_retries: bool = True,
        has_checks: bool = True,
        sites: Mapping[str, int] | None = None,
        brokers: Mapping[str, int] | None = None,
    ) -> None:
        self.folder = folder
        port, site_port, self.broker_port = ports.choose(), ports.choose(), ports.choose()
        self.url, self.site_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{site_port}"
        further = ""
        if sites:
            further += _SITES.format(port=site_port, servers=_list(sites))
        if brokers:
            further += _BROKERS.format(port=self.broker_port, servers=_list(brokers))
        config = _CONFIG.format(
            folder=folder,
            port=port,
            request_id=REQUEST_ID,
            retries=_RETRIES if has_retries else _NO_RETRIES,
            checks=_CHECKS if has_checks else "",
            servers=_list(servers),
            further=further,
        )
        path = folder / "haproxy.cfg"
        path.write_text(config)
        program, env = find_haproxy()
        self.log_path = folder / "haproxy.log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [program, "-db", "-f", path], env=env, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not ports.is_listening(port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"haproxy did not come up: {self.log_path.read_text()[-2000:]}")
            time.sleep(0.05)

    def control(self, command: str) -> str:
        """Send a command to its control socket; the answer."""
        with socket.socket(socket.AF_UNIX) as wire:
            wire.connect(str(self.folder / "control"))
            wire.sendall(f"{command}\n".encode())
            answer = b""
            while piece := wire.recv(1 << 16):
                answer += piece
        return answer.decode()

    def wait_up(self, server: str, backend: str = "gateways") -> None:
        """Until its health check has found a server well."""
        self._wait(server, lambda row: row["status"] == "UP", backend)

    def wait_busy(self, server: str, count: int) -> None:
        """Until so many requests are at a gateway and wait for its answers."""
        self._wait(server, lambda row: int(row["scur"]) >= count)

    def read_served(self) -> dict[str, Served]:
        """By the id that each request had in its header."""
        found = {}
        for line in self.log_path.read_text().splitlines():
            if line.startswith("SERVED "):
                _, name, server, status, retries = line.split()
                # A plus before the count of retries: the last one went to another server.
                found[name] = Served(server, int(status), was_moved=retries.startswith("+"))
        return found

    def stop(self) -> None:
        """End it, with whatever it still carries."""
        self.process.terminate()
        self.process.wait(20)

    def _wait(self, server: str, is_so: Callable[[Row], bool], backend: str = "gateways") -> None:
        deadline = time.monotonic() + _STATE_TIMEOUT_S
        while not is_so(row := self._row(server, backend)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{server} is {row['status']} with {row['scur']} requests")
            time.sleep(0.05)

    def _row(self, server: str, backend: str) -> Row:
        head, *lines = self.control("show stat").lstrip("# ").splitlines()
        rows = [dict(zip(head.split(","), line.split(","), strict=False)) for line in lines if line]
        [row] = [one for one in rows if (one["pxname"], one["svname"]) == (backend, server)]
        return row


def _list(servers: Mapping[str, int]) -> str:
    return "\n".join(f"  server {name} 127.0.0.1:{port}" for name, port in servers.items())


def find_haproxy() -> tuple[Path, dict[str, str]]:
    """The program beside .venv, and the environment in which it finds its libraries.

    Raises:
        FileNotFoundError: bin/test has not unpacked it.
    """
    folder = Path(sys.prefix) / "beside" / "haproxy"
    program = folder / "usr" / "sbin" / "haproxy"
    if not program.exists():
        raise FileNotFoundError(f"{program} is missing: bin/test unpacks it beside .venv")
    libraries = ":".join(str(one) for one in folder.glob("usr/lib/*-linux-gnu"))
    return program, {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": libraries}
