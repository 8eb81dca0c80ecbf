"""Wrap a data key for one recipient, bound to what the key is for.

HPKE in base mode; the purpose, the artifact and the recipient stand in `info`. A wrap
that is moved to another version, recipient or lease does not open.

Source: RFC 9180 (DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from strongroom.sealing.canonical import canonicalize, decode_base64, encode_base64
from strongroom.sealing.errors import CanonicalError, WrapError

SUITE = "hpke-x25519-sha256-aes256gcm"
PUBLIC_KEY_BYTES = 32
PRIVATE_KEY_BYTES = 32
DEK_BYTES = 32
# Encapsulated key, the data key, and the GCM tag.
WRAP_BYTES = 32 + DEK_BYTES + 16
RECIPIENTS = ("platform", "creator")
MAX_KID_LENGTH = 80

DEK_PURPOSE = "strongroom-dek/1"
LEASE_PURPOSE = "strongroom-lease/1"

_HPKE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def generate_private_key() -> bytes:
    """A new X25519 private key, raw."""
    return X25519PrivateKey.generate().private_bytes_raw()


def derive_public_key(private_key: bytes) -> bytes:
    """The raw public key of a raw private key."""
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def derive_kid(public_key: bytes) -> str:
    """A name for a public key: the first 128 bits of its SHA-256, in hex."""
    return hashlib.sha256(public_key).hexdigest()[:32]


def seal(plain: bytes | bytearray, public_key: bytes, info: Mapping[str, Any]) -> bytes:
    """Seal bytes to a key: encapsulated key, then ciphertext.

    Raises:
        WrapError: `public_key_invalid`.
    """
    try:
        recipient = X25519PublicKey.from_public_bytes(public_key)
        return _HPKE.encrypt(plain, recipient, canonicalize(dict(info)))
    except ValueError:
        # Also a point of small order, which would make the secret known to all.
        raise WrapError("public_key_invalid", "This is not a usable X25519 key.") from None


def unseal(blob: bytes, private_key: bytes, info: Mapping[str, Any]) -> bytearray:
    """Open what `seal` made, in memory that the caller can overwrite.

    Raises:
        WrapError: `key_wrap_invalid`: other key, other info, or changed bytes.
    """
    key = X25519PrivateKey.from_private_bytes(private_key)
    try:
        return bytearray(_HPKE.decrypt(blob, key, canonicalize(dict(info))))
    except (InvalidTag, ValueError):
        raise WrapError("key_wrap_invalid", "The wrapped key does not open.") from None


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key sealed to one recipient; stands beside the manifest, not in it."""

    recipient: str
    kid: str
    suite: str
    blob: bytes

    @classmethod
    def parse(cls, value: Any) -> WrappedKey:
        """Read one from decoded JSON.

        Raises:
            WrapError: `key_wrap_invalid`.
        """
        if not isinstance(value, dict) or set(value) != {"recipient", "kid", "suite", "blob"}:
            _refuse("Must have exactly recipient, kid, suite and blob.")
        if value["recipient"] not in RECIPIENTS:
            _refuse(f"The recipient must be one of: {', '.join(RECIPIENTS)}.")
        kid = value["kid"]
        if not isinstance(kid, str) or not 1 <= len(kid) <= MAX_KID_LENGTH:
            _refuse("The kid must be a text.")
        if value["suite"] != SUITE:
            _refuse(f"The suite must be {SUITE}.")
        try:
            blob = decode_base64(value["blob"], size_bytes=WRAP_BYTES)
        except CanonicalError as error:
            _refuse(f"The blob is not valid. {error.detail}")
        return cls(value["recipient"], kid, SUITE, blob)

    def to_json(self) -> dict[str, str]:
        """The form on the wire."""
        return {
            "recipient": self.recipient,
            "kid": self.kid,
            "suite": self.suite,
            "blob": encode_base64(self.blob),
        }


def dek_info(*, artifact_id: str, recipient_kid: str) -> dict[str, str]:
    """The context of a wrapped data key."""
    return {
        "purpose": DEK_PURPOSE,
        "artifact_id": artifact_id,
        "recipient_kid": recipient_kid,
    }


def wrap_dek(
    dek: bytes | bytearray, *, artifact_id: str, recipient: str, kid: str, public_key: bytes
) -> WrappedKey:
    """Wrap the data key of an artifact for one recipient."""
    assert len(dek) == DEK_BYTES
    assert recipient in RECIPIENTS
    blob = seal(dek, public_key, dek_info(artifact_id=artifact_id, recipient_kid=kid))
    return WrappedKey(recipient, kid, SUITE, blob)


def unwrap_dek(wrapped: WrappedKey, private_key: bytes, *, artifact_id: str) -> bytearray:
    """Open a wrapped data key; overwrite it after use.

    Raises:
        WrapError: `key_wrap_invalid`.
    """
    info = dek_info(artifact_id=artifact_id, recipient_kid=wrapped.kid)
    dek = unseal(wrapped.blob, private_key, info)
    if len(dek) != DEK_BYTES:
        _refuse("The wrapped key has the wrong length.")
    return dek


def lease_info(
    *, lease_id: str, node_id: str, replica_id: str, artifact_id: str, expires_at: str
) -> dict[str, str]:
    """The context of a data key that is released under a lease."""
    return {
        "purpose": LEASE_PURPOSE,
        "lease_id": lease_id,
        "node_id": node_id,
        "replica_id": replica_id,
        "artifact_id": artifact_id,
        "expires_at": expires_at,
    }


def _refuse(detail: str) -> NoReturn:
    raise WrapError("key_wrap_invalid", detail)
