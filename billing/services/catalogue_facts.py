"""Tell the catalogue what models cost, and how much they are used."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from django.db.models import Count, F, Q
from django.db.models.functions import Now
from django.utils import timezone

from billing.models import Price, UsageEvent
from marketplace.core.ids import lowest_id
from marketplace.services import entry
from marketplace.services.entry import ListedPrice

COUNTED = timedelta(days=30)


def tell_prices() -> int:
    """Everybody's price of each model, as it is now; returns how many had another."""
    valid = Price.objects.filter(account=None, valid_from__lte=Now()).filter(
        Q(valid_until=None) | Q(valid_until__gt=Now())
    )
    rows = valid.values_list("model_id", "nanos_per_prediction", "is_plain")
    return entry.note_prices(
        {model_id: ListedPrice(nanos, is_plain) for model_id, nanos, is_plain in rows.iterator()}
    )


def tell_use() -> int:
    """Predictions of the last 30 days by model; returns how many had another number.

    Test keys do not count, nor does what an account runs of its own: nobody buys a place in
    the list with credit that comes back.
    """
    since = lowest_id(timezone.now() - COUNTED)
    rows = (
        UsageEvent.objects.filter(prediction_id__gte=since, mode=UsageEvent.Mode.LIVE)
        .exclude(account_id=F("creator_id"))
        .values("version__model_id")
        .annotate(count=Count("pk"))
        .order_by()
        .values_list("version__model_id", "count")
    )
    counts: dict[UUID, int] = dict(rows)
    return entry.note_predictions(counts)
