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
from django.utils import timezone

from inference.models import Artifact, KeyShred, WrappedKey
from inference.selectors.shredding import describe_shred
from strongroom.errors import StrongroomError
from strongroom.sealing import floe, signature, wrap
from strongroom.sealing.canonical import encode_base64
from strongroom.sealing.manifest import Manifest
from strongroom.sealing.suite import X25519
from tests.inference.django import node_ca

TOKEN = "broker-token-of-the-tests"


@dataclass
class Broker:
    """The broker's state, and how it should misbehave."""

    url: str = ""
    signing_key: bytes = field(default_factory=signature.generate_signing_key)
    private_keys: dict[str, bytes] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    # Of the last upload's key: which wraps the client can make.
    suites: Any = None
    # A status to answer with instead, to play a broker that is ill.
    broken_status: int | None = None

    # Statements of one key about the next, as the broker keeps them.
    successions: list[dict[str, str]] = field(default_factory=list)

    def platform_key(self) -> dict[str, Any]:
        public_key = signature.derive_public_key(self.signing_key)
        return {
            "kid": wrap.derive_kid(public_key),
            "public_key": encode_base64(public_key),
            "fingerprint": signature.fingerprint(public_key),
            "successions": self.successions,
        }

    def make_key(self, body: dict[str, Any]) -> dict[str, str]:
        self.suites = body.get("suites")
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

    def shred(self, body: dict[str, Any]) -> dict[str, Any]:
        """Write the proofs as the broker's role does; the same when asked again."""
        shreds = []
        for artifact_id in body["artifact_ids"] or [None]:
            now = timezone.now()
            proof, _ = KeyShred.objects.get_or_create(
                model_id=body["model_id"],
                artifact_id=artifact_id,
                defaults={
                    "kek_refs": [f"model-{body['model_id']}"],
                    "provider": "local",
                    "by": body["by"],
                    "reason": body["reason"],
                    "at": now,
                    "final_at": now,
                    "signature": "c2lnbmVk",
                },
            )
            shreds.append(describe_shred(proof))
        return {"shreds": shreds}

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        match path:
            case "/v1/node-ca":
                return 200, {"certificate": node_ca.AUTHORITY.certificate}
            case "/v1/upload-keys":
                return 200, self.make_key(body)
            case "/v1/shred":
                return 200, self.shred(body)
            case "/v1/upload-keys/check":
                return self.check(body["artifact_id"])
        return 200, self.platform_key()


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
            if broker.broken_status is not None:
                status, document = broker.broken_status, {"code": "internal"}
            elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
                status, document = 401, {"code": "unauthenticated"}
            else:
                try:
                    status, document = broker.answer(self.path, body)
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
