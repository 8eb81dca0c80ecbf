"""Read prices."""

from __future__ import annotations

from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from billing.models import Price
from marketplace.models import AIModel


def find_price(model: AIModel) -> Price | None:
    """The price of a model that is valid now; None if it has none and cannot be sold."""
    # The database's clock, which set the times of the rows; that of this machine may differ.
    return (
        Price.objects.filter(model=model, valid_from__lte=Now())
        .filter(Q(valid_until=None) | Q(valid_until__gt=Now()))
        .first()
    )


def list_prices(model: AIModel) -> QuerySet[Price]:
    """All prices a model ever had, newest first."""
    return Price.objects.filter(model=model).order_by("-valid_from")
