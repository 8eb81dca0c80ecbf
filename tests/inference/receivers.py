"""A receiver of webhooks on this machine: it notes what comes, and answers as it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook


@dataclass
class Received:
    """One message as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    def verify(self, secret: str) -> Any:
        """The document, checked by the library that receivers use."""
        return Webhook(secret).verify(self.body, self.headers)


@dataclass
class Receiver:
    """Answers `plan` in its order, and `status` once that is used up."""

    url: str = ""
    # What its sender signs with, where the test needs it.
    secret: str = ""
    status: int = 204
    plan: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    answer: bytes = b""
    # Waits so long before it answers; sends its answer again and again, for so long.
    slow_s: float = 0.0
    endless_s: float = 0.0
    seen: list[Received] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        receiver: Receiver = self.server.receiver  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        receiver.seen.append(Received(self.path, headers, body))
        time.sleep(receiver.slow_s)
        self.send_response(receiver.plan.pop(0) if receiver.plan else receiver.status)
        for name, value in receiver.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(receiver.answer)
        ends_s = time.monotonic() + receiver.endless_s
        while time.monotonic() < ends_s:
            self.wfile.write(receiver.answer)
            self.wfile.flush()
            time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """One that hangs up on us is what some tests are about."""


@contextmanager
def receive() -> Iterator[Receiver]:
    """A receiver that listens."""
    server = _Server(("127.0.0.1", 0), _Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}/hook")
    server.receiver = receiver  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
