"""Predictions at given times, as a gateway books them."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from uuid import UUID

from billing.models import Price, UsageEvent
from billing.services.price import set_price
from inference.models import Prediction
from marketplace.core.ids import lowest_id
from marketplace.models import Account, ModelVersion
from marketplace.selectors.access import Actor

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def id_at(moment: datetime) -> UUID:
    return UUID(int=lowest_id(moment).int | int.from_bytes(os.urandom(7)))


def run(
    version: ModelVersion,
    at: datetime,
    *,
    account: Account | None = None,
    error: str = "",
    took_ms: float = 100,
    gross_nanos: int = 0,
) -> Prediction:
    """A prediction; free, or with a usage event of a test key's mode that still has a price."""
    account = account or version.model.account
    state = "succeeded" if not error else "canceled" if error == "canceled" else "failed"
    return Prediction.objects.create(
        pk=id_at(at),
        account_id=account.pk,
        version=version,
        state=state,
        error=error,
        cost_nanos=gross_nanos,
        created_at=at,
        completed_at=at + timedelta(milliseconds=took_ms),
    )


def book(prediction: Prediction, *, gross_nanos: int, creator_nanos: int) -> UsageEvent:
    """Its usage event; what it costs is moved by no transfer, which is all the same here."""
    model = prediction.version.model
    price = Price.objects.filter(model=model).first() or set_price(
        Actor(user=model.account.memberships.get(role="owner").user),
        model,
        nanos_per_prediction=gross_nanos,
    )
    event = UsageEvent(
        prediction_id=prediction.pk,
        account_id=prediction.account_id,
        creator=model.account,
        version=prediction.version,
        price=price,
        units=1,
        gross_nanos=gross_nanos,
        creator_nanos=creator_nanos,
        occurred_at=prediction.created_at,
        transfer_id=prediction.pk,
    )
    event.save(force_insert=True)
    return event
