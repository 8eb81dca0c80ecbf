"""What a handler works with: the state, the time, and who asked."""

from __future__ import annotations

import secrets
import string
import time
from dataclasses import dataclass
from typing import Any

from fakestripe import errors, webhooks
from fakestripe.config import Config
from fakestripe.contract import Contract
from fakestripe.store import Store

Json = dict[str, Any]

_LETTERS = string.ascii_letters + string.digits


class BrokenContractError(Exception):
    """Something we built does not keep Stripe's description: a mistake of ours."""


@dataclass(frozen=True)
class Context:
    """One request, or one turn of a background task, inside one transaction."""

    store: Store
    contract: Contract
    config: Config
    now: int  # Stripe's clock in Unix seconds; the control plane can shift it.
    request_id: str | None = None
    idempotency_key: str | None = None

    def emit(self, event_type: str, body: Json, previous: Json | None = None) -> None:
        """Record an event about an object as it is now, and queue its delivery.

        Raises:
            BrokenContractError: The object is not what Stripe would show.
        """
        self.check(body["object"], body)
        data: Json = {"object": body}
        if previous is not None:
            data["previous_attributes"] = previous
        event: Json = {
            "id": new_id("evt"),
            "object": "event",
            "api_version": self.contract.api_version,
            "created": self.now,
            "data": data,
            "livemode": False,
            "pending_webhooks": 0,
            "request": {"id": self.request_id, "idempotency_key": self.idempotency_key},
            "type": event_type,
        }
        self.check("event", event)
        self.store.insert(event)
        if self.config.webhook_url:
            webhooks.enqueue(self.store, event)

    def get(self, kind: str, identifier: str) -> Json:
        """The object that an address names.

        Raises:
            ApiError: 404, there is none.
        """
        body = self.store.find(identifier, kind)
        if body is None:
            raise errors.no_such(kind, identifier)
        return body

    def get_named(self, kind: str, identifier: str, param: str) -> Json:
        """The object that a parameter names.

        Raises:
            ApiError: 400, there is none.
        """
        body = self.store.find(identifier, kind)
        if body is None:
            raise errors.no_such(kind, identifier, param=param, status=400)
        return body

    def insert(self, body: Json, private: Json | None = None) -> Json:
        """Store a new object that keeps its schema; returns it."""
        self.check(body["object"], body)
        self.store.insert(body, private)
        return body

    def after(self, seconds: int, task: str, object_id: str) -> None:
        """Have `due` do something with an object when Stripe's clock has come so far."""
        self.store.insert_task(self.now + seconds, task, object_id)

    def check(self, name: str, body: Json) -> None:
        """Raise if an object breaks its schema."""
        faults = self.contract.object_faults(name, body)
        if faults:
            raise BrokenContractError(f"{name}: {'; '.join(faults[:5])}")


def new_id(prefix: str, length: int = 24) -> str:
    """An identifier in Stripe's form, such as `pi_` and 24 letters."""
    return f"{prefix}_{''.join(secrets.choice(_LETTERS) for _ in range(length))}"


def stripe_now(store: Store) -> int:
    """Stripe's clock: ours plus the offset that the control plane set."""
    return int(time.time()) + int(store.get_setting("clock_offset_s", "0"))
