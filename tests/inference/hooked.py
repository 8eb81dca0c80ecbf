"""Predictions that are told of: written as the gateway and the nodes write them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from inference.models import Prediction, WebhookDelivery, WebhookEndpoint
from inference.services import webhook
from marketplace.core.ids import new_id
from marketplace.models import Account, ModelVersion
from marketplace.selectors.access import Actor


def note(
    account_id: UUID,
    kind: str,
    prediction_id: UUID | None,
    url: str = "",
    events: list[str] | None = None,
) -> None:
    """Call the function that whoever changes a prediction calls."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT inference_note_event(%s, %s, %s, %s, %s::text[])",
            [account_id, kind, prediction_id, url, events or []],
        )


@transaction.atomic
def finish(
    account: Account,
    version: ModelVersion,
    *,
    url: str = "",
    events: list[str] | None = None,
    kind: str = "prediction.completed",
    **fields: Any,
) -> Prediction:
    """A prediction that has ended, and the event that says so, in one transaction."""
    now = timezone.now()
    values = {"state": "succeeded", "created_at": now, "completed_at": now, "cost_nanos": 7}
    prediction = Prediction.objects.create(
        id=new_id(), account_id=account.pk, version=version, **(values | fields)
    )
    note(account.pk, kind, prediction.pk, url, events)
    return prediction


def add(actor: Actor, account: Account, url: str, **fields: Any) -> tuple[WebhookEndpoint, str]:
    """An endpoint and its secret."""
    return webhook.add_endpoint(actor=actor, account=account, url=url, **fields)


def make_due() -> None:
    """The time of what waits has come."""
    WebhookDelivery.objects.filter(state="waiting").update(
        next_at=timezone.now(), leased_until=None
    )
