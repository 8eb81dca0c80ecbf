"""A gateway in a thread of the test: checks the playground token as the real one does."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PREDICTION_ID = "abcdefghijklmnopqrstuvwxyz"


@dataclass
class Gateway:
    """What was asked, and what is answered."""

    url: str = ""
    secret: str = ""
    calls: list[tuple[str, dict[str, Any], Any]] = field(default_factory=list)
    # The header `Prefer` of each call.
    preferences: list[str | None] = field(default_factory=list)
    status: int = 201
    document: Any = None
    # Sent instead of JSON, to play something that is no gateway.
    raw: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


def open_token(token: str, secret: str) -> dict[str, Any]:
    """The claims of a playground token; fails the test if it is not right."""
    assert token.startswith("sp_")
    claims, _, mark = token.removeprefix("sp_").partition(".")
    expected = hmac.digest(secret.encode(), claims.encode(), hashlib.sha256)
    assert hmac.compare_digest(_decode(mark), expected)
    document = json.loads(_decode(claims))
    assert time.time() < document["exp"] <= time.time() + 120
    return document


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


@contextmanager
def serve(secret: str) -> Iterator[Gateway]:
    gateway = Gateway(secret=secret)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers["Content-Length"]))
            body = json.loads(sent) if sent else None
            token = self.headers["Authorization"].removeprefix("Bearer ")
            gateway.calls.append((self.path, open_token(token, gateway.secret), body))
            gateway.preferences.append(self.headers["Prefer"])
            raw = gateway.raw if gateway.raw is not None else json.dumps(gateway.document).encode()
            self.send_response(gateway.status)
            self.send_header("Content-Length", str(len(raw)))
            for name, value in gateway.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    gateway.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield gateway
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
