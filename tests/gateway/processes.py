"""The real processes of these tests: a gateway under granian, a tritonserver, a cut wire."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from embedded import ports
from inference.gateway.config import SERVER_OPTIONS
from inference.triton import repository
from inference.triton.server import SECRET_HEADER, TritonConfig, TritonServer
from strongroom.interface import Interface
from tests import servers

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")
TOY_MODEL = Path(__file__).with_name("toy_model.py")
GRPC_LISTEN = "STRONGROOM_GATEWAY_GRPC_LISTEN"
TOY_LANGUAGE = Path(__file__).with_name("toy_language.py")


class GatewayProcess:
    """One gateway, started as `bin/up` starts it. `target` names another app than the real one.

    With `socket_path` it listens there and on no port; without `port`, on any that is free. Its
    code is that below `root`, served by `module`. Unless a test asks for it, it does not drain
    before it stops.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str,
        *,
        target: str = "inference.gateway.app:app",
        socket_path: Path | None = None,
        port: int | None = None,
        root: Path = ROOT,
        module: str = "inference.gateway.server",
        server_options: Sequence[str] = SERVER_OPTIONS,
        **settings: str,
    ) -> None:
        self.port = port or ports.choose()
        self.url = f"http://127.0.0.1:{self.port}"
        self.grpc_address = settings.get(GRPC_LISTEN, "")
        self.log_path = folder / f"gateway-{self.port}.log"
        command = [sys.executable, "-m", module, "--interface", "rsgi", "--loop", "uvloop"]
        command += ["--http", "1", "--no-ws", "--workers", "1", "--log-level", "warning"]
        command += server_options
        self.socket_path = socket_path
        if socket_path is None:
            command += ["--host", "127.0.0.1", "--port", str(self.port), target]
        else:
            command += ["--uds", str(socket_path), target]
        env = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": f"{root}:{root / 'sdk'}",
            "STRONGROOM_GATEWAY_DATABASE_URL": database_url,
            "STRONGROOM_GATEWAY_URL": "https://gateway.example",
            "STRONGROOM_WEB_URL": "https://web.example",
            "STRONGROOM_REDIS_URL": servers.provide().gateway_redis_url,
            # On a busy machine the gateway itself may be slow to look at Redis' answer.
            "STRONGROOM_GATEWAY_REDIS_WAIT_MS": "5000",
            "STRONGROOM_PLAYGROUND_SECRET": os.environ["STRONGROOM_PLAYGROUND_SECRET"],
            "STRONGROOM_GATEWAY_DRAIN_S": "0",
            **settings,
        }
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=env, cwd=root, stdout=log, stderr=log, start_new_session=True
            )
        eventually(self._check_ready, timeout_s=30)

    def _check_ready(self) -> None:
        if self.process.poll() is not None:
            raise ChildProcessError(self.log())  # It will never be ready.
        try:
            if self.socket_path is not None:
                with socket.socket(socket.AF_UNIX) as wire:
                    wire.connect(str(self.socket_path))
                return
            urllib.request.urlopen(f"{self.url}/health", timeout=2).read()
        except OSError as error:
            raise AssertionError(f"{error}: {self.log()}") from error

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.tell_to_stop()
            self.process.wait(20)

    def tell_to_stop(self) -> None:
        """As whoever runs it does; it may take its time."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def pause(self) -> None:
        """Let it stand still: it is there, and does nothing."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """After a pause."""
        os.killpg(self.process.pid, signal.SIGCONT)


def with_grpc(**settings: str) -> dict[str, str]:
    """The settings of a gateway that speaks gRPC too; it takes longer to start."""
    return {GRPC_LISTEN: f"127.0.0.1:{ports.choose()}", **settings}


class ToyTriton:
    """A tritonserver that has loaded the toy model under some replicas' names."""

    def __init__(self, folder: Path, interface: Interface, replica_ids: list[UUID]) -> None:
        http_port = ports.choose()
        grpc_port = ports.choose()
        metrics_port = ports.choose()
        self.config = TritonConfig(folder, http_port, grpc_port, metrics_port)
        self.server = TritonServer(self.config)
        self.server.start()
        self.server.wait_ready()
        for replica_id in replica_ids:
            self.load(interface, replica_id)

    def load(
        self, interface: Interface, replica_id: UUID, *, model_source: Path = TOY_MODEL
    ) -> None:
        name = repository.write_model(
            self.config.repository_dir,
            interface,
            repository.Parameters(replica_id, self.config.work_dir / "none.sock"),
            model_source=model_source,
        )
        request = urllib.request.Request(
            f"{self.config.http_url}/v2/repository/models/{name}/load",
            b"{}",
            {SECRET_HEADER: self.config.secret},
        )
        try:
            urllib.request.urlopen(request, timeout=60).read()
        except urllib.error.HTTPError as error:
            raise AssertionError(json.loads(error.read())["error"]) from None

    def count_calls(self, replica_id: UUID) -> int:
        """How many requests Triton itself has answered for a replica."""
        url = f"{self.config.http_url}/v2/models/{repository.model_name(replica_id)}/stats"
        request = urllib.request.Request(url, headers={SECRET_HEADER: self.config.secret})
        with urllib.request.urlopen(request, timeout=10) as answer:
            [found] = json.load(answer)["model_stats"]
        return found["inference_stats"]["success"]["count"]

    def kill(self) -> None:
        if self.server.is_running():
            self.server.process.kill()
            self.server.process.wait()

    def stop(self) -> None:
        self.server.stop()


class Wire:
    """A way to Postgres that can be cut, as a restart or a lost network cuts it.

    `lose_next_booking` lets the next booking reach Postgres and cuts that connection before
    its answer; with `cut_on_loss` the whole way goes with it. `hush` loses whatever is sent on
    the connections of that moment and closes none, as the loss of a machine does.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = ports.choose()
        self.lose_next_booking = False
        self.cut_on_loss = False
        self.is_cut = False
        self.lost_count = 0
        self._silent: set[socket.socket] = set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._listener = self._listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection and take no new one."""
        self.is_cut = True
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _shut(*pair)

    def hush(self) -> None:
        with self._lock:
            self._silent.update(client for client, _ in self._pairs)

    def mend(self) -> None:
        self.is_cut = False

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _listen(self) -> socket.socket:
        return socket.create_server(("127.0.0.1", self.port), backlog=64)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.is_cut:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.target_port))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._pairs.append((client, server))
            meter = threading.Event()  # Set once this connection has sent a booking.
            lost = threading.Event()
            for job in (self._to_server, self._to_client):
                threading.Thread(
                    target=job, args=(client, server, meter, lost), daemon=True
                ).start()

    def _to_server(self, client, server, meter, lost) -> None:
        while data := _receive(client):
            if client in self._silent:
                continue
            if b"billing_settle" in data:
                meter.set()
            elif meter.is_set() and self.lose_next_booking and b'"price_id"' in data:
                self.lose_next_booking = False
                lost.set()
            _send(server, data)
        _shut(client, server)

    def _to_client(self, client, server, meter, lost) -> None:
        while data := _receive(server):
            if client in self._silent:
                continue
            if lost.is_set():
                self.lost_count += 1
                if self.cut_on_loss:
                    self.cut()
                break
            _send(client, data)
        _shut(client, server)


def _send(target: socket.socket, data: bytes) -> None:
    """To whom it may have been cut off a moment ago; the next read says so."""
    with contextlib.suppress(OSError):
        target.sendall(data)


def _receive(source: socket.socket) -> bytes:
    try:
        return source.recv(1 << 16)
    except OSError:
        return b""


def _shut(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


def eventually(check: Callable[[], T], *, timeout_s: float = 5.0) -> T:
    """The value of a check that may fail for a while."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)
