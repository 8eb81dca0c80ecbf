"""Read prices."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Any

from django.conf import settings
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now

from billing.models import Price
from marketplace.models import AIModel, ModelVersion

_SECONDS_PER_HOUR = 3_600


def find_price(model: AIModel) -> Price | None:
    """The price of a model that is valid now; None if it has none and cannot be sold."""
    # The database's clock, which set the times of the rows; that of this machine may differ.
    return (
        Price.objects.filter(model=model, account=None, valid_from__lte=Now())
        .filter(Q(valid_until=None) | Q(valid_until__gt=Now()))
        .first()
    )


def find_next_price(model: AIModel) -> Price | None:
    """The price that was announced and has not begun."""
    return Price.objects.filter(
        model=model, account=None, valid_from__gt=Now(), valid_until=None
    ).first()


def list_prices(model: AIModel) -> QuerySet[Price]:
    """All prices that a model ever had or is to have, newest first; not those taken back."""
    prices = Price.objects.filter(model=model, account=None)
    return prices.exclude(valid_until=F("valid_from")).order_by("-valid_from")


def find_floor_nanos(model: AIModel) -> int | None:
    """What a row costs to compute at the measured throughput; None before it was measured.

    Of the newest approved version's certificate, at the cost of a machine's hour that the
    platform has set.
    """
    version = (
        ModelVersion.objects.filter(model=model, state=ModelVersion.State.APPROVED)
        .order_by("-number")
        .first()
    )
    rates = _list_rates(version.certificate if version else None)
    if not rates:
        return None
    return ceil(Fraction(settings.MACHINE_HOUR_NANOS, _SECONDS_PER_HOUR) / max(rates))


def _list_rates(certificate: Any) -> list[Fraction]:
    """Rows a second at each batch size of a certificate; a broken one has none."""
    try:
        points = certificate["benchmark"]["points"]
        found = [Fraction(str(one["rows_per_s"])) for one in points]
    except (KeyError, TypeError, ValueError):
        return []
    return [one for one in found if one > 0]
