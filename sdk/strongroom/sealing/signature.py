"""Ed25519 signatures over typed bytes, and the fingerprints of keys.

What is signed is DSSE's pre-authentication encoding: the type of the payload and both
lengths stand before the bytes, so that a signature over one kind of thing can never be
passed off as one over another.

Source: DSSE v1 protocol (PAE); RFC 8032.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from strongroom.sealing.canonical import canonicalize, decode_base64
from strongroom.sealing.errors import CanonicalError, SignatureError

MANIFEST_TYPE = "application/vnd.strongroom.manifest+json"
UPLOAD_KEY_TYPE = "application/vnd.strongroom.upload-key+json"
LEASE_REQUEST_TYPE = "application/vnd.strongroom.lease-request+json"
SHRED_TYPE = "application/vnd.strongroom.shred+json"
NODE_RENEWAL_TYPE = "application/vnd.strongroom.node-renewal+json"
NODE_ENROLMENT_TYPE = "application/vnd.strongroom.node-enrolment+json"
PLATFORM_KEY_TYPE = "application/vnd.strongroom.platform-key+json"

PUBLIC_KEY_BYTES = 32
PRIVATE_KEY_BYTES = 32
SIGNATURE_BYTES = 64


def generate_signing_key() -> bytes:
    """A new Ed25519 private key, raw."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


def derive_public_key(private_key: bytes) -> bytes:
    """The raw public key of a raw private key."""
    return Ed25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign(private_key: bytes, payload_type: str, payload: bytes) -> bytes:
    """Sign bytes as a thing of this type; 64 bytes."""
    return Ed25519PrivateKey.from_private_bytes(private_key).sign(pae(payload_type, payload))


def verify(public_key: bytes, payload_type: str, payload: bytes, signature: bytes) -> None:
    """Check a signature.

    Raises:
        SignatureError: `signature_invalid`, also for a malformed key or signature.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key)
        key.verify(signature, pae(payload_type, payload))
    except (InvalidSignature, ValueError):
        raise SignatureError from None


def is_signed(payload_type: str, payload: bytes, text: Any, keys: Sequence[bytes]) -> bool:
    """Whether one of these public keys signed the payload; `text` is the signature in base64."""
    try:
        found = decode_base64(text, size_bytes=SIGNATURE_BYTES)
    except CanonicalError:
        return False
    for key in keys:
        try:
            verify(key, payload_type, payload, found)
        except SignatureError:
            continue
        return True
    return False


def fingerprint(public_key: bytes) -> str:
    """How people compare a key: SHA-256 of the raw public key, as OpenSSH shows it."""
    digest = base64.b64encode(hashlib.sha256(public_key).digest()).decode()
    return "SHA256:" + digest.rstrip("=")


def upload_key_payload(
    *,
    kid: str,
    suite: str,
    public_key: str,
    upload_id: str,
    artifact_id: str,
    expires_at: str,
) -> bytes:
    """What the platform signs for the key of one upload; `public_key` in base64."""
    return canonicalize(
        {
            "kid": kid,
            "suite": suite,
            "public_key": public_key,
            "upload_id": upload_id,
            "artifact_id": artifact_id,
            "expires_at": expires_at,
        }
    )


def platform_key_payload(*, kid: str, public_key: str, created_at: str) -> bytes:
    """What a platform's key signs for the one that follows it; `public_key` in base64."""
    return canonicalize({"kid": kid, "public_key": public_key, "created_at": created_at})


def lease_request_payload(body: Mapping[str, Any]) -> bytes:
    """What a node signs when it asks for a lease: the request without its signature."""
    return node_request_payload(body)


def node_request_payload(body: Mapping[str, Any]) -> bytes:
    """What a node signs of any request: all of it but the signature; the type says which."""
    return canonicalize({name: value for name, value in body.items() if name != "signature"})


def evidence_context(body: Mapping[str, Any]) -> bytes:
    """What evidence about a node is bound to: this request and no other. SHA-256."""
    members = ("nonce", "node_id", "artifact_id", "ephemeral_public_key")
    bound = {name: body.get(name) for name in members} | {"purpose": "strongroom-evidence/1"}
    return hashlib.sha256(canonicalize(bound)).digest()
