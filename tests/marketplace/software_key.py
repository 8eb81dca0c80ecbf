"""A passkey without a device: makes and signs what a browser would send."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import struct

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from fido2 import cbor
from fido2.cose import ES256

PRESENT, VERIFIED, HAS_KEY = 0x01, 0x04, 0x40


def to_text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def from_text(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class SoftwareKey:
    """One credential. Its attributes may be set to lie."""

    def __init__(self, origin: str, rp_id: str) -> None:
        self.private_key = ec.generate_private_key(ec.SECP256R1())
        self.credential_id = secrets.token_bytes(32)
        self.origin, self.rp_id = origin, rp_id
        self.flags = PRESENT | VERIFIED
        self.count = 0
        self.user_handle: bytes | None = None

    def create(self, options: dict) -> str:
        """The answer to a registration."""
        self.user_handle = from_text(options["user"]["id"])
        public_key = ES256.from_cryptography_key(self.private_key.public_key())
        data = self._auth_data(self.flags | HAS_KEY) + bytes(16)
        data += struct.pack(">H", len(self.credential_id)) + self.credential_id
        data += cbor.encode(public_key)
        attestation = cbor.encode({"fmt": "none", "attStmt": {}, "authData": data})
        return self._answer(
            clientDataJSON=to_text(self._client_data("webauthn.create", options)),
            attestationObject=to_text(attestation),
            transports=["internal", "nonsense"],
        )

    def get(self, options: dict) -> str:
        """The answer to a proof."""
        client_data = self._client_data("webauthn.get", options)
        data = self._auth_data(self.flags)
        signed = data + hashlib.sha256(client_data).digest()
        fields = {
            "clientDataJSON": to_text(client_data),
            "authenticatorData": to_text(data),
            "signature": to_text(self.private_key.sign(signed, ec.ECDSA(SHA256()))),
        }
        if self.user_handle is not None:
            fields["userHandle"] = to_text(self.user_handle)
        return self._answer(**fields)

    def _answer(self, **fields: object) -> str:
        id_ = to_text(self.credential_id)
        return json.dumps({"id": id_, "rawId": id_, "type": "public-key", "response": fields})

    def _client_data(self, kind: str, options: dict) -> bytes:
        fields = {"type": kind, "challenge": options["challenge"], "origin": self.origin}
        return json.dumps(fields | {"crossOrigin": False}).encode()

    def _auth_data(self, flags: int) -> bytes:
        rp_hash = hashlib.sha256(self.rp_id.encode()).digest()
        return rp_hash + bytes([flags]) + struct.pack(">I", self.count)
