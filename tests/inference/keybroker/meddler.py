"""Somebody between the broker and a KMS: passes calls on, holds them back, or changes answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx


@dataclass
class Answer:
    status: int
    content: bytes
    kind: str


@dataclass
class Meddler:
    """What it does with the calls that come."""

    url: str = ""
    upstream: str = ""
    # Not to answer before this is set.
    hold: threading.Event | None = None
    # Given what was called, answers instead; given also the answer, changes it.
    instead: Callable[[str], Answer | None] | None = None
    change: Callable[[str, Answer], Answer | None] | None = None
    # What the upstream does otherwise than the real thing.
    correct: Callable[[str, Answer], Answer | None] | None = None
    calls: list[str] = field(default_factory=list)
    client: httpx.Client = field(default_factory=lambda: httpx.Client(trust_env=False))

    def pass_on(self, method: str, path: str, headers: Any, body: bytes) -> Answer:
        called = headers.get("X-Amz-Target") or path
        if self.instead and (answer := self.instead(called)):
            return answer
        # Signatures cover the host, so it stays the one that was called.
        sent = {name: value for name, value in headers.items() if name.lower() != "connection"}
        got = self.client.request(
            method, self.upstream + path, headers=sent, content=body, timeout=30
        )
        answer = Answer(got.status_code, got.content, got.headers.get("Content-Type", ""))
        for change in (self.correct, self.change):
            answer = (change(called, answer) if change else None) or answer
        return answer


@contextmanager
def between(upstream: str) -> Iterator[Meddler]:
    meddler = Meddler(upstream=upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            meddler.calls.append(self.headers.get("X-Amz-Target") or self.path)
            if meddler.hold is not None:
                meddler.hold.wait(60)
            try:
                answer = meddler.pass_on(self.command, self.path, self.headers, body)
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.kind)
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)
            except (OSError, httpx.HTTPError):
                self.close_connection = True  # Nobody waits any more, or nobody answers.

        do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        # One that is held back may last longer than the test.
        block_on_close = False

    server = Server(("127.0.0.1", 0), Handler)
    meddler.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield meddler
    finally:
        if meddler.hold is not None:
            meddler.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()
        meddler.client.close()
