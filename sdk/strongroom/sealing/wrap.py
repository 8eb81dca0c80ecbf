"""Wrap a data key for one recipient, bound to what the key is for.

HPKE in base mode; the purpose, the artifact and the recipient stand in `info`. A wrap
that is moved to another version, recipient or lease does not open. The kind of key pair is
the recipient's choice, see `strongroom.sealing.suite`; keys of leases and of creators are X25519.

Source: RFC 9180.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from cryptography.exceptions import InvalidTag

from strongroom.sealing.canonical import canonicalize, decode_base64, encode_base64
from strongroom.sealing.errors import CanonicalError, WrapError
from strongroom.sealing.suite import SUITES, X25519, Suite, find_suite

DEK_BYTES = 32
RECIPIENTS = ("platform", "creator")
MAX_KID_LENGTH = 80
# Kept in a column of text: no NUL, no half of a surrogate pair.
_KID = re.compile(rf"[\x21-\x7e]{{1,{MAX_KID_LENGTH}}}")

DEK_PURPOSE = "strongroom-dek/1"
LEASE_PURPOSE = "strongroom-lease/1"


def generate_private_key(suite: Suite = X25519) -> bytes:
    """A new private key, raw."""
    return suite.generate()


def derive_public_key(private_key: bytes, suite: Suite = X25519) -> bytes:
    """The raw public key of a raw private key."""
    return suite.derive_public(private_key)


def derive_kid(public_key: bytes) -> str:
    """A name for a public key: the first 128 bits of its SHA-256, in hex."""
    return hashlib.sha256(public_key).hexdigest()[:32]


def seal(
    plain: bytes | bytearray, public_key: bytes, info: Mapping[str, Any], suite: Suite = X25519
) -> bytes:
    """Seal bytes to a key: encapsulated key, then ciphertext.

    Raises:
        WrapError: `public_key_invalid`.
    """
    try:
        recipient = suite.load_public(public_key)
        return suite.hpke.encrypt(plain, recipient, canonicalize(dict(info)))
    except ValueError:
        # Also a point of small order, which would make the secret known to all.
        raise WrapError("public_key_invalid", f"This is no usable key for {suite.name}.") from None


def unseal(
    blob: bytes, private_key: bytes, info: Mapping[str, Any], suite: Suite = X25519
) -> bytearray:
    """Open what `seal` made, in memory that the caller can overwrite.

    Raises:
        WrapError: `key_wrap_invalid`: other key, other info, or changed bytes.
    """
    key = suite.load_private(private_key)
    try:
        return bytearray(suite.hpke.decrypt(blob, key, canonicalize(dict(info))))
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
        if not isinstance(kid, str) or not _KID.fullmatch(kid):
            _refuse(f"The kid must be 1 to {MAX_KID_LENGTH} visible ASCII characters.")
        suite = find_suite(value["suite"])
        if suite is None:
            _refuse(f"The suite must be one of: {', '.join(SUITES)}.")
        try:
            blob = decode_base64(value["blob"], size_bytes=suite.sealed_bytes(DEK_BYTES))
        except CanonicalError as error:
            _refuse(f"The blob is not valid. {error.detail}")
        return cls(value["recipient"], kid, suite.name, blob)

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
    dek: bytes | bytearray,
    *,
    artifact_id: str,
    recipient: str,
    kid: str,
    public_key: bytes,
    suite: Suite = X25519,
) -> WrappedKey:
    """Wrap the data key of an artifact for one recipient."""
    assert len(dek) == DEK_BYTES
    assert recipient in RECIPIENTS
    blob = seal(dek, public_key, dek_info(artifact_id=artifact_id, recipient_kid=kid), suite)
    return WrappedKey(recipient, kid, suite.name, blob)


def unwrap_dek(wrapped: WrappedKey, private_key: bytes, *, artifact_id: str) -> bytearray:
    """Open a wrapped data key; overwrite it after use.

    Raises:
        WrapError: `key_wrap_invalid`.
    """
    info = dek_info(artifact_id=artifact_id, recipient_kid=wrapped.kid)
    dek = unseal(wrapped.blob, private_key, info, SUITES[wrapped.suite])
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
