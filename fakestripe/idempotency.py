"""Idempotency keys: the first answer to a key is the answer, for a day.

An answer is stored once the work has begun, whatever its status, in the transaction of the
work itself. Nothing is stored for parameters that were refused, for a key in use, or for a
limit that was hit: such a request did nothing and may be repeated.

Source: docs.stripe.com, "Idempotent requests".
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from fakestripe import errors
from fakestripe.context import Context

Json = dict[str, Any]

KEPT_S = 24 * 3_600
# API v2 keeps answers longer, and only those of work that was done.
KEPT_V2_S = 30 * 86_400
KEY_LENGTH_MAX = 255


@dataclass
class Answer:
    """Status, body and headers, before they become bytes."""

    status: int
    body: Json
    headers: dict[str, str] = field(default_factory=dict)


def check_key(key: str | None) -> None:
    """Refuse a key that Stripe would refuse."""
    if key is not None and len(key) > KEY_LENGTH_MAX:
        raise errors.invalid_request(
            f"Idempotency keys can be at most {KEY_LENGTH_MAX} characters long."
        )


def fingerprint(params: Json) -> str:
    """What two requests must have in common to be the same."""
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()


def find_answer(context: Context, endpoint: str, params: Json) -> Answer | None:
    """The stored answer to this key, or None when it is new.

    Raises:
        ApiError: The key was used for another address or other parameters.
    """
    key = context.idempotency_key
    if key is None:
        return None
    context.store.delete_keys_before(context.now - KEPT_S, context.now - KEPT_V2_S)
    row = context.store.find_key(key)
    if row is None:
        return None
    if row["endpoint"] != endpoint:
        raise errors.key_on_other_endpoint(key, now=endpoint, first=row["endpoint"])
    if row["fingerprint"] != fingerprint(params):
        raise errors.key_mismatch(key)
    headers = json.loads(row["headers"])
    replayed = {"Idempotent-Replayed": "true", "Original-Request": row["request_id"]}
    return Answer(row["status"], json.loads(row["body"]), headers | replayed)


def store_answer(context: Context, endpoint: str, params: Json, answer: Answer) -> None:
    """Keep the answer, in the transaction that made it true."""
    is_v2_refusal = answer.status >= 400 and "/v2/" in endpoint
    if context.idempotency_key is None or is_v2_refusal:
        return
    context.store.insert_key(
        key=context.idempotency_key,
        endpoint=endpoint,
        fingerprint=fingerprint(params),
        status=answer.status,
        body=json.dumps(answer.body),
        headers=json.dumps(answer.headers),
        request_id=context.request_id,
        created=context.now,
    )
