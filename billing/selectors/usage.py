"""Read what was used, by consumer and by creator."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.db.models import Count, F, QuerySet, Sum
from django.db.models.functions import TruncDate
from django.utils import timezone

from billing.models import UsageEvent, UsageShare
from marketplace.models import Account

EARNINGS_DAYS = 30


@dataclass(frozen=True, slots=True)
class EarningsRow:
    """What one model earned its creator on one day."""

    day: str
    model: str
    predictions: int
    gross_nanos: int
    share_nanos: int


def list_usage(account: Account) -> QuerySet[UsageEvent]:
    """An account's usage events, newest first."""
    return (
        UsageEvent.objects.filter(account=account)
        .select_related("version__model__account")
        .order_by("-prediction_id")
    )


def list_earnings(account: Account) -> list[EarningsRow]:
    """What a creator earned in the last days, by day and model, newest first."""
    since = timezone.now() - timedelta(days=EARNINGS_DAYS)
    rows = (
        UsageShare.objects.filter(
            role=UsageShare.Role.CREATOR,
            usage_event__creator=account,
            usage_event__occurred_at__gte=since,
        )
        .values(
            day=TruncDate("usage_event__occurred_at"),
            owner=F("usage_event__version__model__account__slug"),
            name=F("usage_event__version__model__name"),
        )
        .annotate(
            predictions=Count("pk"),
            gross_nanos=Sum("usage_event__gross_nanos"),
            share_nanos=Sum("amount_nanos"),
        )
        .order_by("-day", "owner", "name")
    )
    return [
        EarningsRow(
            day=row["day"].isoformat(),
            model=f"{row['owner']}/{row['name']}",
            predictions=row["predictions"],
            gross_nanos=row["gross_nanos"],
            share_nanos=row["share_nanos"],
        )
        for row in rows
    ]


def sum_usage(account: Account) -> tuple[int, int]:
    """How many predictions an account has had booked, and what they cost in nanos."""
    totals = UsageEvent.objects.filter(account=account).aggregate(
        predictions=Count("pk"), gross_nanos=Sum("gross_nanos")
    )
    return totals["predictions"], totals["gross_nanos"] or 0
