"""A key broker in a thread of the test: its wire and its cryptography are the real ones.

It keeps the private halves in memory. What it is asked to check it reads from the test
database, as the broker does, so tests that come so far need committed rows.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from django.db import connection

from inference.models import Artifact, WrappedKey
from strongroom.errors import StrongroomError
from strongroom.sealing import floe, signature, wrap
from strongroom.sealing.canonical import encode_base64
from strongroom.sealing.manifest import Manifest
from strongroom.sealing.suite import X25519

TOKEN = "broker-token-of-the-tests"


@dataclass
class Broker:
    """The broker's state, and how it should misbehave."""

    url: str = ""
    signing_key: bytes = field(default_factory=signature.generate_signing_key)
    private_keys: dict[str, bytes] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    # A status to answer with instead, to play a broker that is ill.
    broken_status: int | None = None

    def platform_key(self) -> dict[str, str]:
        public_key = signature.derive_public_key(self.signing_key)
        return {
            "kid": wrap.derive_kid(public_key),
            "public_key": encode_base64(public_key),
            "fingerprint": signature.fingerprint(public_key),
        }

    def make_key(self, body: dict[str, Any]) -> dict[str, str]:
        private_key = self.private_keys.setdefault(body["artifact_id"], wrap.generate_private_key())
        public_key = wrap.derive_public_key(private_key)
        key = {
            "kid": wrap.derive_kid(public_key),
            "suite": X25519.name,
            "public_key": encode_base64(public_key),
            "expires_at": body["expires_at"],
        }
        payload = signature.upload_key_payload(
            upload_id=body["upload_id"], artifact_id=body["artifact_id"], **key
        )
        signed = signature.sign(self.signing_key, signature.UPLOAD_KEY_TYPE, payload)
        return key | {"signature": encode_base64(signed)}

    def check(self, artifact_id: str) -> tuple[int, dict[str, Any]]:
        manifest = Manifest.parse(Artifact.objects.get(version_id=artifact_id).manifest)
        row = WrappedKey.objects.get(version_id=artifact_id, recipient="platform")
        members = {name: getattr(row, name) for name in ("recipient", "kid", "suite", "blob")}
        try:
            wrapped = wrap.WrappedKey.parse(members)
            dek = wrap.unwrap_dek(wrapped, self.private_keys[artifact_id], artifact_id=artifact_id)
            for file in manifest.files:
                floe.Message.open(dek, manifest.file_aad(file), file.floe_header).wipe()
        except StrongroomError as error:
            return 422, {"code": error.code, "detail": error.detail}
        return 200, {"ok": True}


@contextmanager
def serve() -> Iterator[Broker]:
    broker = Broker()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            self.answer({})

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            self.answer(json.loads(self.rfile.read(length)))

        def answer(self, body: dict[str, Any]) -> None:
            broker.calls.append(self.path)
            status, document = 200, broker.platform_key()
            if broker.broken_status is not None:
                status, document = broker.broken_status, {"code": "internal"}
            elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
                status, document = 401, {"code": "unauthenticated"}
            elif self.path == "/v1/upload-keys":
                document = broker.make_key(body)
            elif self.path == "/v1/upload-keys/check":
                try:
                    status, document = broker.check(body["artifact_id"])
                finally:
                    connection.close()
            raw = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    broker.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield broker
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
