"""An S3-compatible store in a thread of the test: one bucket, as botocore talks to it.

Path-style addresses, whole objects and ranges, the XML of a listing and of an error. It
takes whoever signs at all: what is tested is what becomes of its answers, not its locks.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

NAME = "sealed"


@dataclass
class Bucket:
    """What lies in it, and how it should misbehave."""

    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    # Answered instead of everything else: a status, or nothing but the end of the connection.
    broken_status: int | None = None
    hangs_up: bool = False
    # As a bucket with uniform access does: who may read is not for an object to say.
    refuses_acls: bool = False
    # Objects are found, and break off in the middle.
    cuts_bodies: bool = False


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if key := self.find_key():
            self.bucket.objects[key] = body
            self.answer(200, headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})

    def do_HEAD(self) -> None:
        self.give()

    def do_GET(self) -> None:
        self.give()

    def do_DELETE(self) -> None:
        if key := self.find_key():
            self.bucket.objects.pop(key, None)
            self.answer(204)

    def find_key(self) -> str | None:
        """The object that is meant, "/" for the bucket; None if the call was answered."""
        self.bucket.calls.append(self.command)
        if self.bucket.hangs_up:
            self.close_connection = True
            return None
        if self.bucket.broken_status is not None:
            return self.fail(self.bucket.broken_status, "ServiceUnavailable")
        if self.bucket.refuses_acls and any(map(is_acl, self.headers)):
            return self.fail(400, "InvalidArgument")
        if not self.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256 "):
            return self.fail(403, "AccessDenied")
        name, _, key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        return (key or "/") if name == NAME else self.fail(404, "NoSuchBucket")

    def give(self) -> None:
        key = self.find_key()
        if key == "/":
            self.answer(200, self.list().encode(), {"Content-Type": "application/xml"})
        elif key is not None and key not in self.bucket.objects:
            self.fail(404, "NoSuchKey")
        elif key is not None:
            body = self.bucket.objects[key]
            self.answer(200, body, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'})

    def list(self) -> str:
        asked = parse_qs(urlsplit(self.path).query)
        found = [one for one in sorted(self.bucket.objects) if one.startswith(asked["prefix"][0])]
        contents = "".join(f"<Contents><Key>{escape(one)}</Key></Contents>" for one in found)
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"

    def fail(self, status: int, code: str) -> None:
        self.answer(status, f"<Error><Code>{code}</Code></Error>".encode())

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET" and self.bucket.cuts_bodies:
            body, self.close_connection = body[: len(body) // 2], True
        if self.command != "HEAD":
            self.wfile.write(body)


def is_acl(header: str) -> bool:
    """Whether a header of a request sets who may do what with an object."""
    return header.lower().startswith(("x-amz-acl", "x-amz-grant-", "x-goog-acl"))


@contextmanager
def serve() -> Iterator[Bucket]:
    bucket = Bucket()
    handler = type("Handler", (_Handler,), {"bucket": bucket})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    bucket.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
