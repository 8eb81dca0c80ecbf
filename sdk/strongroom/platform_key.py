"""Follow a platform from the key that was pinned to the one it has now.

A platform that changes its key has the old key sign a statement that names the new one.
Trust goes forward only: from the pinned key, over statements that it and its successors
signed, to the key that is shown. Whatever does not lead there changes nothing.
"""

from __future__ import annotations

from typing import Any

from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64
from strongroom.sealing.errors import CanonicalError, SignatureError

# Once a month for eight years. The broker makes no longer chain, and none is followed.
SUCCESSIONS_MAX = 100


def follow(
    pinned: bytes,
    shown: bytes,
    successions: Any,
    *,
    payload_type: str = signature.PLATFORM_KEY_TYPE,
) -> list[bytes] | None:
    """The keys from the pinned one to the one that is shown, both among them.

    Args:
        pinned: The raw public key that is trusted.
        shown: The one that the platform shows.
        successions: The platform's list of statements, oldest first, as it came.
        payload_type: As what they are signed: of which key they are.

    Returns:
        None if no chain of valid statements leads there.
    """
    if pinned == shown:
        return [pinned]
    if not isinstance(successions, list) or len(successions) > SUCCESSIONS_MAX:
        return None
    chain = [pinned]
    for statement in successions:
        # Those before the pinned key was made are signed by keys that are not trusted here.
        successor = _read(statement, chain[-1], payload_type)
        if successor is not None and successor not in chain:
            chain.append(successor)
    return chain if chain[-1] == shown else None


def _read(statement: Any, signer: bytes, payload_type: str) -> bytes | None:
    """The key that a statement names, if this key signed it."""
    try:
        payload = signature.platform_key_payload(
            kid=statement["kid"],
            public_key=statement["public_key"],
            created_at=statement["created_at"],
        )
        signed = decode_base64(statement["signature"])
        signature.verify(signer, payload_type, payload, signed)
        return decode_base64(statement["public_key"], size_bytes=signature.PUBLIC_KEY_BYTES)
    except (KeyError, TypeError, CanonicalError, SignatureError):
        return None
