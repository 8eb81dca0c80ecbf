"""A node that does what it is told, over the node API, one look at a time.

It plays the agent faithfully: it holds what it is told to hold, walks each replica through
the states, says all that it holds in each report, does work when asked, and forgets what
it is not told to hold any more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import time_machine
from django.test import Client
from django.utils import timezone

from inference.models import NodeIdentity
from inference.node.identity import Identity
from inference.node_certificate import CERTIFICATE_TTL
from marketplace.core import keys
from marketplace.core.clock import to_wire
from marketplace.core.ids import new_id
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64
from tests.inference.django import node_ca

URLS = {
    "http_url": "http://127.0.0.1:9000",
    "grpc_url": "127.0.0.1:9001",
    "metrics_url": "http://127.0.0.1:9002/metrics",
}
VALIDATION = {"files": [{"path": "model.onnx", "nodes": 3}]}
LOAD = {"decrypt_s": 0.5, "build_s": 1.5, "resident_size_bytes": 2**30}
BENCHMARK = {
    "load_ms": 1500.0,
    "memory_bytes": 2**30,
    "points": [{"batch": 1, "p50_ms": 1.0, "p95_ms": 2.0, "rows_per_s": 900.0}],
    "triton_version": "2.51.0",
    "cpu_count": 2,
}
# The way of a replica, one state for each look.
WAY = ("fetching", "starting", "decrypting", "validating", "loading", "warming", "ready")


def hear(*nodes: ScriptedNode, until: datetime) -> None:
    """Let nodes report from now on, as often as they do, up to a moment."""
    moment = timezone.now()
    while moment <= until:
        with time_machine.travel(moment, tick=False):
            for node in nodes:
                assert node.report().status_code == 200
        moment += timedelta(seconds=10)


@dataclass
class Held:
    """A replica as the node holds it."""

    state: str = "assigned"
    reason_code: str = ""
    detail: str = ""
    report: dict[str, Any] = field(default_factory=dict)

    def to_json(self, replica_id: str) -> dict[str, Any]:
        progress = (WAY.index(self.state) + 1) / len(WAY) if self.state in WAY else 0.0
        body: dict[str, Any] = {"id": replica_id, "state": self.state, "phase": self.state}
        body |= {"progress": progress}
        if self.reason_code:
            body |= {"reason_code": self.reason_code, "detail": self.detail}
        return body | ({"report": self.report} if self.report else {})


@dataclass
class ScriptedNode:
    name: str
    client: Client = field(default_factory=Client)
    private_key: bytes = field(default_factory=signature.generate_signing_key)
    node_id: str = ""
    token: str = ""
    certificate: str = ""
    held: dict[str, Held] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    work_done: list[tuple[str, str]] = field(default_factory=list)
    # What goes wrong: state at which a replica fails, and with which code.
    fail_at: str = ""
    fail_code: str = ""
    # What comes of work, by kind; the default is success.
    work_results: dict[str, dict[str, Any]] = field(default_factory=dict)
    # Called before each report, to spoil it.
    spoil: Callable[[dict[str, Any]], None] | None = None

    @property
    def public_key(self) -> str:
        return Identity(self.private_key).public_key

    def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Any:
        return self.client.generic(
            method,
            f"/api/node/{path}",
            json.dumps(body) if body is not None else "",
            content_type="application/json",
            headers={"Authorization": f"Bearer {self.token}", **(headers or {})},
        )

    def join(self) -> None:
        """Become a node at the key broker, as `tests/inference/keybroker` has it happen."""
        now = timezone.now()
        rows = NodeIdentity.objects.filter(name=self.name, revoked_at=None)
        rows.update(revoked_at=now)
        row = NodeIdentity.objects.create(
            node_id=new_id(),
            name=self.name,
            public_key=self.public_key,
            certificate_expires_at=now + CERTIFICATE_TTL,
            joined_at=now,
        )
        self.node_id, self.token = str(row.pk), keys.generate(keys.NODE).text
        self.certificate = self.certify()

    def certify(self, **changes: Any) -> str:
        """A certificate of the authority that the web knows."""
        given = {"node_id": UUID(self.node_id), "name": self.name, "now": timezone.now()}
        public_key = decode_base64(self.public_key)
        node_ca.make_known()
        return node_ca.AUTHORITY.issue(**given | {"public_key": public_key} | changes)[0]

    def enrol(self, **changes: Any) -> Any:
        """Enrol at the web; joins first, if it has not. Changes are made before it is signed."""
        if not self.certificate:
            self.join()
        node_ca.make_known()
        return self.call("POST", "enrol", self.sign_enrolment(**changes))

    def sign_enrolment(self, **changes: Any) -> dict[str, Any]:
        body = {
            "certificate": self.certificate,
            "name": self.name,
            "token_sha256": keys.digest(self.token).hex(),
            "triton": URLS,
            "info": {"gpu": "none"},
            "signed_at": to_wire(timezone.now()),
        }
        return Identity(self.private_key).sign(signature.NODE_ENROLMENT_TYPE, body | changes)

    def report(self, **changes: Any) -> Any:
        body = {
            "triton": {"ready": True, "version": "2.51.0", **URLS},
            "info": {"gpu": "none"},
            "replicas": [one.to_json(replica_id) for replica_id, one in self.held.items()],
        }
        body |= changes
        if self.spoil is not None:
            self.spoil(body)
        return self.call("POST", "report", body)

    def look(self) -> None:
        """One round: read what is wanted, take each replica one state on, do work, report."""
        answer = self.call("GET", "desired")
        assert answer.status_code == 200, answer.content
        wanted = {one["id"]: one for one in answer.json()["replicas"]}
        self.held = {
            replica_id: self.held.get(replica_id) or Held()
            for replica_id in [*wanted, *self.held]
            if replica_id in wanted
        }
        for replica_id, one in wanted.items():
            self._move(self.held[replica_id], one)
            if one["work"] and self.held[replica_id].state == "ready":
                self._do(one["work"])
        answer = self.report()
        assert answer.status_code == 200, answer.content

    def _move(self, held: Held, wanted: dict[str, Any]) -> None:
        if held.state == "assigned":
            self._fetch(wanted["version_id"])
        if held.state in ("failed", "ready"):
            return
        held.state = WAY[WAY.index(held.state) + 1] if held.state in WAY else WAY[0]
        if held.state == "loading":
            held.report["validation"] = VALIDATION
        if held.state == "ready":
            held.report["load"] = LOAD
        if held.state == self.fail_at:
            held.state, held.reason_code = "failed", self.fail_code
            held.detail = f"It went wrong with {self.fail_code}."

    def _fetch(self, version_id: str) -> None:
        """Fetch every part and compare it with the manifest, as an agent does."""
        answer = self.call("GET", f"artifacts/{version_id}")
        assert answer.status_code == 200, answer.content
        artifact = answer.json()
        assert [one["recipient"] for one in artifact["wrapped_keys"]] == ["platform"]
        for index, file in enumerate(json.loads(artifact["manifest"])["files"]):
            for part, promised in enumerate(file["parts"]):
                path = f"artifacts/{version_id}/files/{index}/parts/{part}"
                body = b"".join(self.call("GET", path).streaming_content)
                assert hashlib.sha256(body).hexdigest() == promised["sha256"]
        self.fetched.append(version_id)

    def _do(self, work: dict[str, str]) -> None:
        default = BENCHMARK if work["kind"] == "benchmark" else {"vectors": 1}
        body = self.work_results.get(work["kind"], {"state": "succeeded", "result": default})
        assert self.call("POST", f"work/{work['id']}", body).status_code == 200
        self.work_done.append((work["kind"], work["id"]))
