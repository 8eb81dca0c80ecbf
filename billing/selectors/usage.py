"""Read what was used, by consumer and by creator."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.db.models import Count, F, QuerySet, Sum
from django.db.models.functions import TruncDate
from django.utils import timezone

from billing.models import UsageEvent
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
        UsageEvent.objects.filter(creator=account, occurred_at__gte=since, gross_nanos__gt=0)
        .values(
            day=TruncDate("occurred_at"),
            owner=F("version__model__account__slug"),
            name=F("version__model__name"),
        )
        .annotate(
            predictions=Count("pk"),
            # Not by the name of the column: that would be summed again below.
            gross=Sum("gross_nanos"),
            share=Sum("creator_nanos"),
        )
        .order_by("-day", "owner", "name")
    )
    return [
        EarningsRow(
            day=row["day"].isoformat(),
            model=f"{row['owner']}/{row['name']}",
            predictions=row["predictions"],
            gross_nanos=row["gross"],
            share_nanos=row["share"],
        )
        for row in rows
    ]


def sum_usage(account: Account) -> tuple[int, int]:
    """How many predictions an account has had booked, and what they cost in nanos."""
    totals = UsageEvent.objects.filter(account=account).aggregate(
        predictions=Count("pk"), gross_nanos=Sum("gross_nanos")
    )
    return totals["predictions"], totals["gross_nanos"] or 0
