"""Events of API v2: a notification that says which object changed, and nothing of how.

The notification is what a webhook carries; `data` and `changes` are read with
`GET /v2/core/events/{id}`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fakestripe import webhooks
from fakestripe.context import Context, new_id

Json = dict[str, Any]

KIND = "v2.core.event"


def emit(
    context: Context, event_type: str, *, related: Json | None = None, data: Json | None = None
) -> None:
    """Record a thin event, and queue its delivery.

    Args:
        context: The transaction to work in.
        event_type: Such as `v2.core.account.created`.
        related: The object that changed.
        data: What only the full event tells.
    """
    event: Json = {
        "id": new_id("evt"),
        "object": KIND,
        "created": iso(context.now),
        "livemode": False,
        "type": event_type,
    }
    if related is not None:
        event["related_object"] = {
            "id": related["id"],
            "type": related["object"],
            "url": f"/v2/core/accounts/{related['id']}",
        }
    if context.request_id is not None:
        event["reason"] = {
            "type": "request",
            "request": {
                "id": context.request_id,
                "idempotency_key": context.idempotency_key or "",
            },
        }
    if data is not None:
        event["data"] = data
    context.check(KIND, event)
    context.store.insert(event, created=context.now)
    if context.config.webhook_url:
        webhooks.enqueue(context.store, event)


def notification(event: Json) -> Json:
    """What is sent of an event."""
    return {name: value for name, value in event.items() if name not in ("data", "changes")}


def retrieve(context: Context, _params: Json, event_id: str) -> Json:
    return context.get(KIND, event_id)


def iso(moment: int) -> str:
    """A time as API v2 writes it."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
