"""A running key broker on the test database, a node, and a sealed version assigned to it."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from inference.models import Artifact, Node, Replica, SigningKey, Upload, WrappedKey
from marketplace.core.ids import new_id
from marketplace.models import Account, AIModel, ModelVersion
from strongroom.sealing import floe, signature, wrap
from strongroom.sealing.canonical import canonicalize, decode_base64, encode_base64
from strongroom.sealing.manifest import file_aad
from strongroom.sealing.suite import SUITES

ROOT = Path(__file__).resolve().parents[3]
TOKEN = "t" * 40
LOADER_DIGEST = "ab" * 32
CONTENT = b"weights" * 100


@dataclass
class Broker:
    url: str
    kms_dir: Path
    log_path: Path
    process: subprocess.Popen

    def post(self, path: str, body: Any, *, token: str | None = TOKEN) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.post(self.url + path, json=body, headers=headers, timeout=10)


@dataclass
class SealedVersion:
    """A version as it stands after `complete`, made as the SDK makes it."""

    account: Account
    model: AIModel
    version: ModelVersion
    dek: bytes
    kem: dict[str, str]
    upload_id: UUID = field(default_factory=new_id)


@dataclass
class EnrolledNode:
    row: Node
    private_key: bytes

    def sign(self, body: dict[str, Any]) -> dict[str, Any]:
        signed = signature.sign(
            self.private_key,
            signature.LEASE_REQUEST_TYPE,
            signature.lease_request_payload(body),
        )
        return {**body, "signature": encode_base64(signed)}

    def nonce(self, broker: Broker) -> str:
        answer = broker.post("/v1/leases/challenge", {"node_id": str(self.row.pk)})
        assert answer.status_code == 200, answer.text
        return answer.json()["nonce"]

    def request(self, broker: Broker, replica: Replica, **changes: Any) -> dict[str, Any]:
        """A signed request for a lease; changes are made before it is signed."""
        ephemeral = wrap.generate_private_key()
        body = {
            "node_id": str(self.row.pk),
            "nonce": self.nonce(broker),
            "purpose": str(replica.purpose),
            "replica_id": str(replica.pk),
            "artifact_id": str(replica.version_id),
            "loader_digest": LOADER_DIGEST,
            "ephemeral_public_key": encode_base64(wrap.derive_public_key(ephemeral)),
            "evidence": {"type": "none-dev"},
            **changes,
        }
        self.ephemeral = ephemeral
        return self.sign(body)


def start_broker(folder: Path, database_url: str, **settings: str) -> Broker:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log_path = folder / "keybroker.log"
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}",
        "STRONGROOM_ENV": "development",
        "STRONGROOM_KEYBROKER_DATABASE_URL": database_url,
        "STRONGROOM_KEYBROKER_TOKEN": TOKEN,
        "STRONGROOM_KEYBROKER_KMS_DIR": str(folder / "kms"),
        "STRONGROOM_LOADER_DIGESTS": LOADER_DIGEST,
        **settings,
    }
    command = [str(Path(sys.executable).with_name("granian")), "--interface", "rsgi"]
    command += ["--host", "127.0.0.1", "--port", str(port), "inference.keybroker.app:app"]
    process = subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=log_path.open("ab"), stderr=subprocess.STDOUT
    )
    broker = Broker(f"http://127.0.0.1:{port}", folder / "kms", log_path, process)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if httpx.get(broker.url + "/health", timeout=1).status_code == 200:
                return broker
        except httpx.TransportError:
            time.sleep(0.05)
    process.kill()
    raise TimeoutError(log_path.read_text())


@pytest.fixture
def broker(
    transactional_db: None, database_urls: dict[str, str], tmp_path: Path
) -> Iterator[Broker]:
    running = start_broker(tmp_path, database_urls["keybroker"])
    yield running
    running.process.terminate()
    running.process.wait(10)


@pytest.fixture
def node(transactional_db: None) -> EnrolledNode:
    return enrol("node-1")


def enrol(name: str) -> EnrolledNode:
    private_key = signature.generate_signing_key()
    row = Node.objects.create(
        name=name,
        public_key=encode_base64(signature.derive_public_key(private_key)),
        token_digest=secrets.token_bytes(32),
        triton_http_url="http://127.0.0.1:1",
        triton_grpc_url="127.0.0.1:2",
    )
    return EnrolledNode(row, private_key)


@pytest.fixture
def sealed(broker: Broker) -> SealedVersion:
    account = Account.objects.create(slug="creator", name="Creator")
    model = AIModel.objects.create(account=account, name="echo", title="Echo")
    return seal_version(broker, account, model, number=1)


def seal_version(broker: Broker, account: Account, model: AIModel, *, number: int) -> SealedVersion:
    version = ModelVersion.objects.create(
        model=model, number=number, state=ModelVersion.State.ONBOARDING
    )
    upload_id = new_id()
    answer = broker.post(
        "/v1/upload-keys",
        {
            "upload_id": str(upload_id),
            "artifact_id": str(version.pk),
            "account_id": str(account.pk),
            "model_id": str(model.pk),
            "expires_at": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
        },
    )
    assert answer.status_code == 200, answer.text
    kem = answer.json()
    dek = os.urandom(wrap.DEK_BYTES)
    store_artifact(version, upload_id, kem, dek)
    wrapped = wrap.wrap_dek(
        dek,
        artifact_id=str(version.pk),
        recipient="platform",
        kid=kem["kid"],
        public_key=decode_base64(kem["public_key"]),
        suite=SUITES[kem["suite"]],
    )
    WrappedKey.objects.create(
        version=version,
        recipient="platform",
        kid=wrapped.kid,
        suite=wrapped.suite,
        blob=encode_base64(wrapped.blob),
    )
    return SealedVersion(account, model, version, dek, kem, upload_id)


def store_artifact(version: ModelVersion, upload_id: UUID, kem: dict[str, str], dek: bytes) -> None:
    signing_key, _ = SigningKey.objects.get_or_create(
        account=version.model.account, fingerprint="SHA256:test", defaults={"public_key": "AA=="}
    )
    artifact_id = str(version.pk)
    cipher_size = floe.PRODUCTION.cipher_size(len(CONTENT))
    aad = file_aad(
        artifact_id=artifact_id,
        path="model.onnx",
        plain_size_bytes=len(CONTENT),
        content_format=floe.CONTENT_FORMAT,
    )
    header = floe.Message.start(dek, aad).header
    manifest = canonicalize(
        {
            "format": "strongroom-manifest/1",
            "artifact_id": artifact_id,
            "model": str(version.model),
            "content_format": floe.CONTENT_FORMAT,
            "runtime": "onnx",
            "task": "test",
            "licence": "Apache-2.0",
            "interface": {
                "inputs": [{"name": "x", "kind": "number"}],
                "outputs": [{"name": "y", "kind": "number"}],
                "batch": {"max_size": 1, "leading_axis": True},
            },
            "files": [
                {
                    "path": "model.onnx",
                    "kind": "onnx",
                    "plain_size_bytes": len(CONTENT),
                    "cipher_size_bytes": cipher_size,
                    "floe_header": encode_base64(header),
                    "parts": [{"size_bytes": cipher_size, "sha256": "00" * 32}],
                }
            ],
            "test_vectors": [],
            "publish_channel": None,
            "created_at": "2026-11-21T03:42:00Z",
        }
    ).decode()
    upload = Upload.objects.create(
        pk=upload_id,
        account=version.model.account,
        version=version,
        signing_key=signing_key,
        files=[],
        kem=kem,
        expires_at=datetime.now(UTC) + timedelta(hours=1),
    )
    Artifact.objects.create(
        version=version,
        upload=upload,
        manifest=manifest,
        manifest_sha256="00" * 32,
        signature="AA==",
        signing_key=signing_key,
        size_bytes=cipher_size,
    )


@pytest.fixture
def replica(sealed: SealedVersion, node: EnrolledNode) -> Replica:
    return Replica.objects.create(
        version=sealed.version, node=node.row, purpose=Replica.Purpose.SCAN
    )
