"""The outbox of calls to Stripe that may move money: each has a row before it leaves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import TypeVar

from django.utils import timezone

from billing.errors import StripeRefusedError
from billing.models import StripeCall

Result = TypeVar("Result")


def call_stripe(
    endpoint: str, key: str, params: dict[str, object], action: Callable[[], Result]
) -> Result:
    """Make one call that may move money; its row is committed before the call leaves."""
    digest = hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()
    row, _ = StripeCall.objects.get_or_create(
        idempotency_key=key, defaults={"endpoint": endpoint, "params_sha256": digest}
    )
    try:
        result = action()
    except StripeRefusedError as error:
        row.state, row.error = StripeCall.State.REJECTED, error.detail
        row.finished_at = timezone.now()
        row.save(update_fields=["state", "error", "finished_at"])
        raise
    row.state = StripeCall.State.OK
    row.response_id = result if isinstance(result, str) else getattr(result, "id", "")
    row.finished_at = timezone.now()
    row.save(update_fields=["state", "response_id", "finished_at"])
    return result


def note_found(key: str, response_id: str) -> None:
    """Note that a call whose answer was lost has had its effect after all."""
    StripeCall.objects.filter(idempotency_key=key, state=StripeCall.State.SENT).update(
        state=StripeCall.State.OK, response_id=response_id, finished_at=timezone.now()
    )
