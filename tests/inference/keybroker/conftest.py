"""A running key broker on the test database, a node, and a sealed version assigned to it."""

from __future__ import annotations

import os
import secrets
import ssl
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

from embedded import ports, tls
from embedded.home import Home
from inference.models import (
    Artifact,
    Node,
    NodeIdentity,
    Replica,
    SigningKey,
    Upload,
    WrappedKey,
)
from inference.node.identity import Identity
from marketplace.core.clock import utc_now
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
START_TIMEOUT_S = 60
# By id: whose connection a signed request goes over.
ENROLLED: dict[str, EnrolledNode] = {}


@dataclass
class Broker:
    url: str
    kms_dir: Path
    log_path: Path
    process: subprocess.Popen
    ca: Path
    environment: dict[str, str]

    def post(
        self, path: str, body: Any, *, token: str | None = TOKEN, peer: EnrolledNode | None = None
    ) -> httpx.Response:
        """A request; one that is signed goes over the connection of the node that it names."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if peer is None and "signature" in body and path.startswith("/v1/leases"):
            peer = ENROLLED.get(body.get("node_id"))
        with self.client(peer.certify(self) if peer else None) as client:
            return client.post(path, json=body, headers=headers)

    def get(self, path: str) -> Any:
        with self.client() as client:
            return client.get(path).json()

    def client(self, identity: Identity | None = None) -> httpx.Client:
        """A connection of its own; with an identity it shows that certificate."""
        context = ssl.create_default_context(cafile=self.ca)
        if identity is not None:
            with os.fdopen(os.memfd_create("identity"), "wb") as file:
                file.write(identity.pem())
                file.flush()
                context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        return httpx.Client(base_url=self.url, verify=context, timeout=10, trust_env=False)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of the operator's, with the broker's own settings."""
        command = [sys.executable, "-m", "inference.keybroker", *arguments]
        return subprocess.run(
            command,
            check=False,
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(20)


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
    """A node that has joined and enrolled; its certificate is fetched when it is first shown."""

    row: Node
    private_key: bytes
    certificate: str = ""

    def certify(self, broker: Broker) -> Identity | None:
        """What it shows in a connection; None if the broker does not certify it."""
        if not self.certificate:
            body = {"node_id": str(self.row.pk), "nonce": self.nonce(broker)}
            answer = broker.post("/v1/nodes/renew", self.sign_renewal(body))
            if answer.status_code != 200:
                return None
            self.certificate = answer.json()["certificate"]
        return Identity(self.private_key, str(self.row.pk), "t", self.certificate)

    def sign_renewal(self, body: dict[str, Any]) -> dict[str, Any]:
        return Identity(self.private_key).sign(signature.NODE_RENEWAL_TYPE, body)

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
    port = ports.choose()
    log_path = folder / "keybroker.log"
    home = Home(folder / "home")
    home.path.mkdir(exist_ok=True)
    tls.ensure(home)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}",
        "STRONGROOM_ENV": "development",
        "STRONGROOM_KEYBROKER_DATABASE_URL": database_url,
        "STRONGROOM_KEYBROKER_TOKEN": TOKEN,
        "STRONGROOM_KEYBROKER_KMS_DIR": str(folder / "kms"),
        "STRONGROOM_KEYBROKER_LISTEN": f"127.0.0.1:{port}",
        "STRONGROOM_KEYBROKER_TLS_CERT": str(home.tls_certificate),
        "STRONGROOM_KEYBROKER_TLS_KEY": str(home.tls_key),
        "STRONGROOM_LOADER_DIGESTS": LOADER_DIGEST,
        **settings,
    }
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "inference.keybroker"],
            env=environment,
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    scheme = "https" if environment["STRONGROOM_KEYBROKER_TLS_CERT"] else "http"
    url = f"{scheme}://{environment['STRONGROOM_KEYBROKER_LISTEN']}"
    broker = Broker(url, folder / "kms", log_path, process, home.tls_ca, environment)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with broker.client() as client:
                if client.get("/health").status_code == 200:
                    return broker
        except httpx.TransportError:
            time.sleep(0.05)
    process.kill()
    process.wait()
    raise TimeoutError(log_path.read_text())


@pytest.fixture
def broker(
    transactional_db: None, database_urls: dict[str, str], tmp_path: Path
) -> Iterator[Broker]:
    running = start_broker(tmp_path, database_urls["keybroker"])
    yield running
    running.stop()


@pytest.fixture
def node(transactional_db: None) -> EnrolledNode:
    return enrol("node-1")


def enrol(name: str) -> EnrolledNode:
    """A node as joining and enrolling leave it; `test_node_identity.py` has how it comes to be."""
    private_key = signature.generate_signing_key()
    public_key = encode_base64(signature.derive_public_key(private_key))
    row = Node.objects.create(
        name=name,
        public_key=public_key,
        token_digest=secrets.token_bytes(32),
        triton_http_url="http://127.0.0.1:1",
        triton_grpc_url="127.0.0.1:2",
    )
    NodeIdentity.objects.create(
        node_id=row.pk,
        name=name,
        public_key=public_key,
        certificate_expires_at=utc_now(),
        joined_at=utc_now(),
    )
    ENROLLED[str(row.pk)] = EnrolledNode(row, private_key)
    return ENROLLED[str(row.pk)]


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
