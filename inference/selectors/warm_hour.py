"""Read which versions were kept loaded for an hour that is over and not charged yet."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import connection
from django.db.models import QuerySet

from inference.models import Deployment
from inference.selectors.deployment import list_unservable_deployments
from inference.selectors.wake import Warmth, describe_temperature, with_warmth

HOUR = timedelta(hours=1)


def read_hour() -> datetime:
    """When the present hour of UTC began, by the database's clock."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT date_trunc('hour', clock_timestamp(), 'UTC')")
        (hour,) = cursor.fetchone()
    assert isinstance(hour, datetime)
    return hour


def list_due_deployments() -> QuerySet[Deployment]:
    """Those with an hour that is over; what costs nothing is none of them."""
    return Deployment.objects.filter(
        stopped_at=None,
        is_always_warm=True,
        warm_hour_nanos__gt=0,
        next_warm_hour_at__lte=read_hour() - HOUR,
    ).order_by("pk")


def is_served_now(deployment: Deployment) -> bool:
    """Whether a copy of it is ready, and its version may run."""
    rows = Deployment.objects.filter(pk=deployment.pk).exclude(
        pk__in=list_unservable_deployments().values("pk")
    )
    found = with_warmth(rows).first()
    return found is not None and describe_temperature(found).state is Warmth.WARM
