"""What the platform's overview shows of money."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, Min, Q, QuerySet, Sum
from django.db.models.functions import TruncHour

from billing.models import Adjustment, ReconcileDifference, ReconcileRun, ReviewCase, UsageEvent
from marketplace.core.clock import utc_now
from marketplace.core.ids import lowest_id
from marketplace.selectors.platform import Waiting

HOURS_SHOWN = 6
# A prediction is booked when it ends; none takes longer.
PREDICTION_MAX = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Hour:
    """What was booked in an hour."""

    starts_at: datetime
    predictions: int
    gross_nanos: int
    creator_nanos: int

    @property
    def platform_nanos(self) -> int:
        """The platform's own part."""
        return self.gross_nanos - self.creator_nanos


def count_waiting(urls: dict[str, str]) -> list[Waiting]:
    """Decisions about money that wait for an admin; `urls` says where each is taken."""
    cases = ReviewCase.objects.filter(state=ReviewCase.State.OPEN).aggregate(
        count=Count("pk"), oldest=Min("opened_at")
    )
    pending = Adjustment.objects.filter(state=Adjustment.State.PENDING).aggregate(
        count=Count("pk"), oldest=Min("created_at")
    )
    unexplained = ReconcileDifference.objects.filter(
        Q(resolved_at=None) & Q(explanation=ReconcileDifference.Explanation.NONE)
    ).aggregate(count=Count("pk"), oldest=Min("first_seen_at"))
    return [
        Waiting("Cases of suspected fraud", urls["cases"], cases["count"], cases["oldest"]),
        Waiting(
            "Adjustments for a second admin",
            urls["adjustments"],
            pending["count"],
            pending["oldest"],
        ),
        Waiting(
            "Unexplained differences",
            urls["differences"],
            unexplained["count"],
            unexplained["oldest"],
        ),
    ]


def find_last_run() -> ReconcileRun | None:
    """The last comparison with Stripe."""
    return ReconcileRun.objects.order_by("-started_at").first()


def list_hours() -> list[Hour]:
    """What was booked in each of the last hours, the present one first."""
    this_hour = utc_now().replace(minute=0, second=0, microsecond=0)
    begin = this_hour - timedelta(hours=HOURS_SHOWN - 1)
    found = {
        row["hour"]: row
        for row in _events_since(begin)
        .annotate(hour=TruncHour("occurred_at"))
        .values("hour")
        .annotate(predictions=Count("pk"), gross=Sum("gross_nanos"), creator=Sum("creator_nanos"))
    }
    hours = [this_hour - timedelta(hours=back) for back in range(HOURS_SHOWN)]
    return [
        Hour(
            starts_at=hour,
            predictions=found[hour]["predictions"] if hour in found else 0,
            gross_nanos=found[hour]["gross"] if hour in found else 0,
            creator_nanos=found[hour]["creator"] if hour in found else 0,
        )
        for hour in hours
    ]


def count_recent(seconds: int) -> int:
    """Predictions that were booked in so many last seconds."""
    return _events_since(utc_now() - timedelta(seconds=seconds)).count()


def _events_since(begin: datetime) -> QuerySet[UsageEvent]:
    """By their ids, which begin with the time: that is what there is an index of."""
    lowest = lowest_id(begin - PREDICTION_MAX)
    return UsageEvent.objects.filter(prediction_id__gte=lowest, occurred_at__gte=begin)
