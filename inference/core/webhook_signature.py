"""Sign what webhooks carry.

Source: Standard Webhooks 1.0.0, https://www.standardwebhooks.com.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from datetime import datetime

PREFIX = "whsec_"


def write_secret(key: bytes) -> str:
    """A key as receivers are given it."""
    return PREFIX + base64.b64encode(key).decode()


def sign(keys: Sequence[bytes], *, message_id: str, now: datetime, body: bytes) -> dict[str, str]:
    """The headers of a message.

    Args:
        keys: One signature for each: while a secret is changed, receivers know either of two.
        message_id: The same in each attempt; without dots.
        now: Of this attempt: receivers refuse what is old.
        body: The very bytes that are sent.
    """
    timestamp = int(now.timestamp())
    signed = f"{message_id}.{timestamp}.".encode() + body
    signatures = [base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{one}" for one in signatures),
    }
