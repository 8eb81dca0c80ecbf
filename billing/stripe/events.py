"""Webhooks: believe only what Stripe signed, and only around the moment it was sent.

The SDK's own check accepts a timestamp any distance in the future, and with a tolerance of 0
or None one of any age; whoever once saw a signed event could send it again for ever. Here
the clock is checked on both sides, and there is no way to switch that off.

Source: docs.stripe.com, "Verify webhook signatures manually".
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from billing.errors import WebhookRefusedError

# Stripe's own tolerance; clocks that differ by more than five minutes are broken.
TOLERANCE_S = 300

# One signature per secret in use; two while a secret is replaced.
SIGNATURES_MAX = 8
HEADER_LENGTH_MAX = 1_024

_TIMESTAMP = re.compile(r"[0-9]{1,12}")


@dataclass(frozen=True, slots=True)
class StripeEvent:
    """A reason to look: what kind of thing happened to which object.

    `created` is in Unix seconds; `object_id` is empty for objects without one. The payload
    is a snapshot from some moment, never the present state; a thin event (of API v2) has none
    and only names the object.
    """

    id: str
    type: str
    created: int
    object_id: str
    payload: dict[str, Any]


def verify_webhook(payload: bytes, signature: str, secret: str, now: datetime) -> StripeEvent:
    """Read a webhook if Stripe signed these bytes within five minutes of now.

    Args:
        payload: The request's body, byte for byte.
        signature: The header `Stripe-Signature`; empty if there was none.
        secret: The endpoint's signing secret; several, separated by commas, where thin events
            come from an endpoint with its own.
        now: Aware.

    Raises:
        WebhookRefusedError: `params["reason"]` is signature_missing, signature_malformed,
            signature_invalid, timestamp_too_old, timestamp_in_future or payload_malformed.
    """
    secrets = [item.strip() for item in secret.split(",") if item.strip()]
    if not secrets:
        # An empty secret would let everybody sign.
        raise ValueError("the signing secret of the webhook endpoint is not set")
    timestamp, candidates = _parse_header(signature)
    signed = b"%d." % timestamp + payload
    expected = [hmac.new(item.encode(), signed, hashlib.sha256).hexdigest() for item in secrets]
    # All are compared, so that the time taken says nothing about which one fits.
    matches = [
        hmac.compare_digest(ours.encode(), theirs.encode(errors="replace"))
        for ours in expected
        for theirs in candidates
    ]
    if not any(matches):
        raise _refused("signature_invalid")
    # After the signature: a stranger learns nothing about our clock.
    age_s = now.timestamp() - timestamp
    if age_s > TOLERANCE_S:
        raise _refused("timestamp_too_old")
    if age_s < -TOLERANCE_S:
        raise _refused("timestamp_in_future")
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise _refused("payload_malformed") from error
    return read_event(body)


def read_event(body: Any) -> StripeEvent:
    """An event from its JSON.

    Raises:
        WebhookRefusedError: It is neither a snapshot event nor a thin one.
    """
    match body:
        case {
            "object": "event",
            "id": str(identifier),
            "type": str(kind),
            "created": int(created),
            "data": {"object": {**members}},
        } if identifier and kind:
            object_id = members.get("id")
            return StripeEvent(
                id=identifier,
                type=kind,
                created=created,
                object_id=object_id if isinstance(object_id, str) else "",
                payload=body,
            )
        case {
            "object": "v2.core.event",
            "id": str(identifier),
            "type": str(kind),
            "created": str(moment),
        } if identifier and kind:
            return StripeEvent(
                id=identifier,
                type=kind,
                created=_seconds(moment),
                object_id=_related_id(body.get("related_object")),
                payload=body,
            )
    raise _refused("payload_malformed")


def _related_id(related: Any) -> str:
    match related:
        case {"id": str(identifier)}:
            return identifier
    return ""


def _seconds(moment: str) -> int:
    """Unix seconds of a time as API v2 writes it, such as 2026-11-21T04:00:00.000Z."""
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError as error:
        raise _refused("payload_malformed") from error
    if parsed.tzinfo is None:
        raise _refused("payload_malformed")
    return int(parsed.timestamp())


def _parse_header(header: str) -> tuple[int, list[str]]:
    """The timestamp and the v1 signatures; other schemes are ignored, as Stripe says."""
    if not header:
        raise _refused("signature_missing")
    if len(header) > HEADER_LENGTH_MAX:
        raise _refused("signature_malformed")
    pairs = [item.strip().partition("=") for item in header.split(",")]
    timestamps = [value for name, _, value in pairs if name == "t"]
    signatures = [value for name, _, value in pairs if name == "v1" and value]
    if len(timestamps) != 1 or not _TIMESTAMP.fullmatch(timestamps[0]):
        raise _refused("signature_malformed")
    if not 1 <= len(signatures) <= SIGNATURES_MAX:
        raise _refused("signature_malformed")
    return int(timestamps[0]), signatures


def _refused(reason: str) -> WebhookRefusedError:
    return WebhookRefusedError(reason=reason)
