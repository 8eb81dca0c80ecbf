"""A creator's machine: seals files with the SDK and talks HTTP, as `strongroom push` does."""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import dataclass, field, replace
from typing import Any

from django.test import Client

from strongroom.sealing import floe, signature, wrap
from strongroom.sealing.canonical import canonicalize, decode_base64, encode_base64
from strongroom.sealing.manifest import Manifest, Part, SealedFile, TestVector, file_aad

INTERFACE = {
    "inputs": [
        {"name": "x", "kind": "tensor", "datatype": "FP32", "shape": [2], "example": [1, 2]}
    ],
    "outputs": [{"name": "y", "kind": "number"}],
    "batch": {"max_size": 8, "leading_axis": True},
}
CREATED_AT = "2026-11-21T03:42:00Z"


@dataclass
class Sealed:
    """A sealed version, ready to be sent."""

    upload: dict[str, Any]
    manifest: Manifest
    parts: dict[tuple[int, int], bytes]
    dek: bytes
    wrapped_keys: list[dict[str, str]]


@dataclass
class Creator:
    """One person at a machine: a signing key, a backup key, a signed-in client."""

    client: Client
    account: str = "acme"
    signing_key: bytes = field(default_factory=signature.generate_signing_key)
    backup_key: bytes = field(default_factory=wrap.generate_private_key)

    def post(self, path: str, body: Any) -> Any:
        return self.client.post(path, json.dumps(body), content_type="application/json")

    def register(self, account: str | None = None) -> Any:
        public_key = encode_base64(signature.derive_public_key(self.signing_key))
        body = {"account": account or self.account, "public_key": public_key}
        return self.post("/api/signing-keys", body)

    @property
    def fingerprint(self) -> str:
        return signature.fingerprint(signature.derive_public_key(self.signing_key))

    def begin(self, model: str, contents: dict[str, bytes], **changes: Any) -> Any:
        body = {
            "files": [announce(path, len(content)) for path, content in contents.items()],
            "signing_key": self.fingerprint,
        }
        return self.post(f"/api/models/{model}/uploads", body | changes)

    def seal(
        self,
        upload: dict[str, Any],
        files: dict[str, bytes],
        *,
        model: str,
        vectors: tuple[TestVector, ...] = (),
        channel: str | None = None,
        **changes: Any,
    ) -> Sealed:
        """Seal files for an upload; `changes` replace members of the manifest."""
        dek = os.urandom(wrap.DEK_BYTES)
        artifact_id = upload["version_id"]
        sealed, parts = [], {}
        for index, (path, content) in enumerate(files.items()):
            aad = file_aad(artifact_id=artifact_id, path=path, plain_size_bytes=len(content))
            message = floe.Message.start(dek, aad)
            cipher_size = floe.PRODUCTION.cipher_size(len(content))
            listed = []
            for part in range(len(floe.PRODUCTION.part_sizes(cipher_size))):
                segments = floe.encrypt_part(message, io.BytesIO(content), len(content), part)
                body = b"".join(segments)
                parts[index, part] = body
                listed.append(Part(len(body), hashlib.sha256(body).hexdigest()))
            sealed.append(
                SealedFile(
                    path, kind_of(path), len(content), cipher_size, message.header, tuple(listed)
                )
            )
        manifest = Manifest(
            artifact_id=artifact_id,
            model=model,
            runtime="onnx",
            task="tabular-regression",
            licence="Apache-2.0",
            interface=INTERFACE,
            files=tuple(sealed),
            created_at=CREATED_AT,
            test_vectors=vectors,
            publish_channel=channel,
        )
        return Sealed(upload, replace(manifest, **changes), parts, dek, self.wrap_keys(upload, dek))

    def wrap_keys(self, upload: dict[str, Any], dek: bytes) -> list[dict[str, str]]:
        kem = upload["kem"]
        own = wrap.derive_public_key(self.backup_key)
        artifact_id = upload["version_id"]
        return [
            wrap.wrap_dek(
                dek, artifact_id=artifact_id, recipient=recipient, kid=kid, public_key=public_key
            ).to_json()
            for recipient, kid, public_key in (
                ("platform", kem["kid"], decode_base64(kem["public_key"])),
                ("creator", wrap.derive_kid(own), own),
            )
        ]

    def put_part(
        self, upload_id: str, file_index: int, part: int, body: bytes, **changes: Any
    ) -> Any:
        """`changes` are further WSGI variables, to send something else than one promises."""
        headers = {"X-Part-SHA256": hashlib.sha256(body).hexdigest()}
        return self.client.generic(
            "PUT",
            f"/api/uploads/{upload_id}/files/{file_index}/parts/{part}",
            body,
            content_type="application/octet-stream",
            headers=headers | changes.pop("headers", {}),
            **changes,
        )

    def put_parts(self, sealed: Sealed) -> None:
        for (file_index, part), body in sealed.parts.items():
            answer = self.put_part(sealed.upload["upload_id"], file_index, part, body)
            assert answer.status_code == 200, answer.content

    def complete(self, sealed: Sealed, **changes: Any) -> Any:
        raw = sealed.manifest.canonical_bytes()
        return self.complete_raw(sealed, raw.decode(), **changes)

    def complete_raw(self, sealed: Sealed, manifest: str, **changes: Any) -> Any:
        signed = signature.sign(
            self.signing_key, signature.MANIFEST_TYPE, manifest.encode(errors="replace")
        )
        body = {
            "manifest": manifest,
            "signature": encode_base64(signed),
            "wrapped_keys": sealed.wrapped_keys,
        }
        return self.post(f"/api/uploads/{sealed.upload['upload_id']}/complete", body | changes)

    def push(self, model: str, files: dict[str, bytes], **options: Any) -> Any:
        """The whole way, as it goes when nothing is wrong; returns the version."""
        begun = self.begin(model, files)
        assert begun.status_code == 201, begun.content
        sealed = self.seal(begun.json(), files, model=model, **options)
        self.put_parts(sealed)
        done = self.complete(sealed)
        assert done.status_code == 202, done.content
        return done.json()


def announce(path: str, plain_size_bytes: int) -> dict[str, Any]:
    return {
        "path": path,
        "kind": kind_of(path),
        "plain_size_bytes": plain_size_bytes,
        "cipher_size_bytes": floe.PRODUCTION.cipher_size(plain_size_bytes),
    }


def kind_of(path: str) -> str:
    return "onnx" if path.endswith(".onnx") else "labels"


def recanonicalize(manifest: Manifest, **changes: Any) -> str:
    """The canonical text of a manifest with members that the SDK would not write."""
    return canonicalize(manifest.to_json() | changes).decode()
