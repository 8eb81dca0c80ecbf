"""The web's node API and the key broker, played faithfully by a server of the test.

It holds the desired state and the ciphertext, checks tokens, signatures and nonces, and seals
data keys with real HPKE to whoever asks rightly. Tests bend it to play faults.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO, Any
from uuid import UUID

from inference.keybroker.node_ca import make_authority, read_request
from inference.node_certificate import CERTIFICATE_TTL, NodeCertificate
from inference.serving.digest import compute_loader_digest
from marketplace.core.clock import utc_now
from marketplace.core.ids import new_id
from strongroom.errors import StrongroomError
from strongroom.sealing import signature, wrap
from strongroom.sealing.canonical import decode_base64, encode_base64
from tests.inference.serving.sealed import SealedModel

JOIN_TOKEN = "join-me"
AUTHORITY = make_authority(signature.generate_signing_key(), utc_now())


class RefusalError(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


@dataclass
class Assigned:
    sealed: SealedModel
    purpose: str
    work: dict[str, str] | None = None


@dataclass
class Platform:
    # Faults, set by tests.
    is_web_down: bool = False
    is_broker_down: bool = False
    refuse_lease: str = ""
    refuse_renewal: str = ""
    refuse_certificate: str = ""
    certificate_ttl_s: float = 86_400.0
    lease_ttl_s: float = 600.0
    # For these many more requests, each part comes with one bit flipped.
    spoiled_parts: int = 0
    # Before each part, and between its pieces of 64 KiB; 0 sends it in one.
    part_delay_s: float = 0.0
    chunk_delay_s: float = 0.0
    # What happened.
    node_id: str = ""
    token_sha256: str = ""
    public_key: str = ""
    name: str = ""
    joins: list[dict[str, Any]] = field(default_factory=list)
    certificates: list[str] = field(default_factory=list)
    enrolments: list[dict[str, Any]] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    lease_requests: list[dict[str, Any]] = field(default_factory=list)
    leases: dict[str, str] = field(default_factory=dict)
    renewals: list[str] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    parts_sent: list[tuple[str, int, int]] = field(default_factory=list)
    # What was asked for of parts that were not asked for as a whole.
    ranges: list[str] = field(default_factory=list)
    # What the node may fetch ahead.
    likely: list[dict[str, Any]] = field(default_factory=list)
    # The loader's word by replica, put together as the web does.
    merged: defaultdict[str, dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))
    _assigned: dict[str, Assigned] = field(default_factory=dict)
    _nonces: set[str] = field(default_factory=set)
    _signing_key: bytes = field(default_factory=signature.generate_signing_key)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self._servers = [_serve(self, self.web), _serve(self, self.broker)]
        self.web_url, self.broker_url = (
            f"http://127.0.0.1:{one.server_address[1]}" for one in self._servers
        )

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    # What tests do and ask.

    def assign(self, sealed: SealedModel, purpose: str = "serve") -> str:
        replica_id = str(new_id())
        with self._lock:
            self._assigned[replica_id] = Assigned(sealed, purpose)
        return replica_id

    def unassign(self, replica_id: str) -> None:
        with self._lock:
            del self._assigned[replica_id]

    def give_work(self, replica_id: str, kind: str) -> str:
        work_id = str(new_id())
        self._assigned[replica_id].work = {"id": work_id, "kind": kind}
        return work_id

    def states(self, replica_id: str) -> list[str]:
        """Every state that was reported, in order, without repetitions."""
        found: list[str] = []
        for report in list(self.reports):
            for line in report["replicas"]:
                if line["id"] == replica_id and found[-1:] != [line["state"]]:
                    found.append(line["state"])
        return found

    def line(self, replica_id: str) -> dict[str, Any]:
        lines = self.reports[-1]["replicas"] if self.reports else []
        return next((one for one in lines if one["id"] == replica_id), {})

    def wait_state(self, replica_id: str, *states: str, timeout_s: float = 40) -> dict[str, Any]:
        return wait_for(
            lambda: (line := self.line(replica_id)).get("state") in states and line,
            timeout_s=timeout_s,
            explain=lambda: f"{self.states(replica_id)} {self.line(replica_id)}",
        )

    def wait_triton(self, ready: bool, timeout_s: float = 40) -> None:
        wait_for(
            lambda: bool(self.reports) and self.reports[-1]["triton"]["ready"] is ready,
            timeout_s=timeout_s,
        )

    # The node API.

    def web(self, request: Request) -> Any:
        if self.is_web_down:
            raise ConnectionAbortedError
        path = request.path.removeprefix("/api/node/").split("/")
        if path == ["enrol"]:
            return self._enrol(request.body)
        token = request.authorization.removeprefix("Bearer ")
        if sha256(token.encode()).hexdigest() != self.token_sha256:
            raise RefusalError(401, "unauthenticated")
        if path == ["desired"]:
            return self._desired()
        if path == ["prefetch"]:
            return {"versions": self.likely}
        if path == ["report"]:
            return self._report(request.body)
        if path[0] == "work":
            with self._lock:
                self.results.setdefault(path[1], request.body)
                for one in self._assigned.values():
                    if one.work and one.work["id"] == path[1]:
                        one.work = None
            return {}
        assert path[0] == "artifacts"
        return self._artifact(path[1], path[2:])

    def _enrol(self, body: dict[str, Any]) -> Any:
        self.enrolments.append(body)
        certificate = NodeCertificate.verify(body["certificate"], AUTHORITY.certificate)
        self._check_signature(body, signature.NODE_ENROLMENT_TYPE)
        if certificate.not_after < utc_now():
            raise RefusalError(401, "certificate_expired")
        if (str(certificate.node_id), certificate.name) != (self.node_id, body["name"]):
            raise RefusalError(403, "node_revoked")
        self.token_sha256 = body["token_sha256"]
        return {"node_id": self.node_id}

    def _desired(self) -> Any:
        with self._lock:
            return {
                "node_id": self.node_id,
                "replicas": [
                    {
                        "id": replica_id,
                        "version_id": one.sealed.manifest.artifact_id,
                        "purpose": one.purpose,
                        "triton_name": f"r{UUID(replica_id).hex}",
                        "work": one.work,
                    }
                    for replica_id, one in self._assigned.items()
                    # The web takes a failure as final for the replica.
                    if "failed" not in self.states(replica_id)
                ],
            }

    def _report(self, body: dict[str, Any]) -> Any:
        with self._lock:
            self.reports.append(body)
            for line in body["replicas"]:
                self.merged[line["id"]] |= line.get("report", {})
        return {}

    def _find_artifact(self, version_id: str) -> SealedModel:
        for one in self._assigned.values():
            if one.sealed.manifest.artifact_id == version_id:
                return one.sealed
        raise RefusalError(404, "not_found")

    def _artifact(self, version_id: str, path: list[str]) -> Any:
        sealed = self._find_artifact(version_id)
        if path:
            return self._part(sealed, int(path[1]), int(path[3]))
        text = sealed.manifest.canonical_bytes()
        signed = signature.sign(self._signing_key, signature.MANIFEST_TYPE, text)
        public_key = signature.derive_public_key(self._signing_key)
        parts = [
            (index, number)
            for index, file in enumerate(sealed.manifest.files)
            for number in range(len(file.parts))
        ]
        return {
            "objects": {
                f"{index}-{number}": f"artifacts/{version_id}/{index:02}-{number:06}-ab"
                for index, number in parts
            },
            "manifest": text.decode(),
            "signature": encode_base64(signed),
            "signing_public_key": encode_base64(public_key),
            "wrapped_keys": [],
        }

    def _part(self, sealed: SealedModel, file_index: int, part: int) -> bytes:
        before = sum(len(one.parts) for one in sealed.manifest.files[:file_index])
        data = bytearray(sealed.parts[before + part].read_bytes())
        with self._lock:
            self.parts_sent.append((sealed.manifest.artifact_id, file_index, part))
            if self.spoiled_parts > 0:
                self.spoiled_parts -= 1
                data[len(data) // 2] ^= 1
        return bytes(data)

    def send_slowly(self, file: IO[bytes], data: bytes) -> None:
        time.sleep(self.part_delay_s)
        with suppress(ConnectionError):
            while data and self.chunk_delay_s:
                file.write(data[:65536])
                file.flush()
                data = data[65536:]
                time.sleep(self.chunk_delay_s)
            file.write(data)

    # The key broker.

    def broker(self, request: Request) -> Any:
        if self.is_broker_down:
            raise ConnectionAbortedError
        if request.path == "/v1/nodes/join":
            return self._join(request.body)
        path, body = request.path.removeprefix("/v1/leases").strip("/").split("/"), request.body
        if path == ["challenge"]:
            nonce = secrets.token_urlsafe(32)
            self._nonces.add(nonce)
            return {"nonce": nonce, "expires_at": utc_now().isoformat()}
        if request.path == "/v1/nodes/renew":
            self._check_signature(body, signature.NODE_RENEWAL_TYPE)
            self._use_nonce(body)
            if self.refuse_certificate:
                raise RefusalError(403, self.refuse_certificate)
            return self._certify()
        self._check_signature(body, signature.LEASE_REQUEST_TYPE)
        self._use_nonce(body)
        if path == [""]:
            return self._grant(body)
        lease_id, action = path
        if action == "release":
            self.released.append(lease_id)
            return {}
        if self.refuse_renewal or lease_id in self.released:
            raise RefusalError(403, self.refuse_renewal or "lease_lost")
        self.renewals.append(lease_id)
        return {"expires_at": self._expiry()}

    def _join(self, body: dict[str, Any]) -> Any:
        self.joins.append(body)
        if body["join_token"] != JOIN_TOKEN:
            raise RefusalError(401, "join_token_invalid")
        self.public_key = encode_base64(read_request(body["csr"]))
        self.node_id = str(new_id())
        self.name = body["name"]
        return self._certify()

    def _certify(self) -> Any:
        issued_at = utc_now() + timedelta(seconds=self.certificate_ttl_s) - CERTIFICATE_TTL
        certificate, _, _ = AUTHORITY.issue(
            node_id=UUID(self.node_id),
            name=self.name,
            public_key=decode_base64(self.public_key),
            now=issued_at,
        )
        self.certificates.append(certificate)
        return {"node_id": self.node_id, "certificate": certificate}

    def _check_signature(self, body: dict[str, Any], kind: str) -> None:
        try:
            signature.verify(
                decode_base64(self.public_key),
                kind,
                signature.node_request_payload(body),
                decode_base64(body.get("signature")),
            )
        except StrongroomError:
            raise RefusalError(401, "signature_invalid") from None

    def _use_nonce(self, body: dict[str, Any]) -> None:
        with self._lock:
            if body["nonce"] not in self._nonces:
                raise RefusalError(409, "nonce_replayed")
            self._nonces.remove(body["nonce"])

    def _grant(self, body: dict[str, Any]) -> Any:
        self.lease_requests.append(body)
        if self.refuse_lease:
            raise RefusalError(403, self.refuse_lease)
        wanted = self._assigned.get(body["replica_id"])
        if body["node_id"] != self.node_id or wanted is None:
            raise RefusalError(403, "not_assigned")
        given = (wanted.sealed.manifest.artifact_id, wanted.purpose)
        if (body["artifact_id"], body["purpose"]) != given:
            raise RefusalError(403, "not_assigned")
        if body["loader_digest"] != compute_loader_digest():
            raise RefusalError(403, "loader_not_allowed")
        info = wrap.lease_info(
            lease_id=str(new_id()),
            node_id=self.node_id,
            replica_id=body["replica_id"],
            artifact_id=body["artifact_id"],
            expires_at=self._expiry(),
        )
        sealed = wrap.seal(wanted.sealed.dek, decode_base64(body["ephemeral_public_key"]), info)
        self.leases[info["lease_id"]] = body["replica_id"]
        return {
            "lease_id": info["lease_id"],
            "expires_at": info["expires_at"],
            "sealed_dek": encode_base64(sealed),
            "info": info,
        }

    def _expiry(self) -> str:
        return (utc_now() + timedelta(seconds=self.lease_ttl_s)).isoformat()


@dataclass
class Request:
    path: str
    body: Any
    authorization: str


def wait_for(
    look: Callable[[], Any], *, timeout_s: float = 20, explain: Callable[[], str] = lambda: ""
) -> Any:
    """Wait until `look` gives something true, and return it."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {explain()}"
        time.sleep(0.05)
    return found


def _serve(platform: Platform, answer: Callable[[Request], Any]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def handle_one(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            request = Request(self.path, body, self.headers.get("Authorization", ""))
            status, kind = 200, "application/json"
            try:
                found = answer(request)
            except RefusalError as refusal:
                status, found = refusal.status, {"code": refusal.code, "detail": "No."}
            except ConnectionAbortedError:
                self.close_connection = True
                return
            if isinstance(found, bytes):
                data, kind = found, "application/octet-stream"
                if asked := self.headers.get("Range"):
                    platform.ranges.append(asked)
                    first = int(asked.removeprefix("bytes=").removesuffix("-"))
                    status, data = 206, found[first:]
            else:
                data = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{len(found) - 1}/{len(found)}")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if kind == "application/json":
                self.wfile.write(data)
            else:
                platform.send_slowly(self.wfile, data)

        do_GET = do_POST = handle_one  # noqa: N815 - the names that the server calls

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
