"""Predictions at given times, as a gateway books them."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from uuid import UUID

from inference.models import Prediction
from marketplace.core.ids import lowest_id
from marketplace.models import Account, ModelVersion

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
    pk: UUID | None = None,
) -> Prediction:
    """A prediction without a usage event; with `error` one that failed."""
    account = account or version.model.account
    state = "succeeded" if not error else "canceled" if error == "canceled" else "failed"
    return Prediction.objects.create(
        pk=pk or id_at(at),
        account_id=account.pk,
        version=version,
        state=state,
        error=error,
        created_at=at,
        completed_at=at + timedelta(milliseconds=took_ms),
    )
