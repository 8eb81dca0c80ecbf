"""Read what was used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Count, F, QuerySet, Sum
from django.db.models.functions import TruncDate

from billing.models import UsageEvent
from billing.selectors.earnings import BOOKED_WITHIN
from marketplace.core import ids
from marketplace.models import Account, AIModel, APIKey

# By what usage can be summed.
GROUPS = ("day", "model", "key", "tag")
# Rows of a sum; days of three years.
SUMS_MAX = 1_100
_EVENTS_PER_FETCH = 2_000
_NO_KEY = {True: "try-it form", False: "deleted key"}
# No tag can be called so: it has a space.
_NO_TAG = "no tag"


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """A part of an account's usage; days are UTC's, the last one is included."""

    since: date | None = None
    until: date | None = None
    model: str = ""
    key_id: UUID | None = None
    mode: str = ""
    tag: str = ""


@dataclass(frozen=True, slots=True)
class UsageSum:
    """What one day, model, key or tag came to; `name` says which."""

    name: str
    predictions: int
    units: int
    gross_nanos: int


def list_usage(account: Account, chosen: UsageFilter | None = None) -> QuerySet[UsageEvent]:
    """An account's usage events, newest first; all of them, or what was chosen."""
    events = UsageEvent.objects.filter(account=account)
    if chosen is not None:
        events = choose_usage(events, chosen)
    return events.select_related("version__model__account").order_by("-prediction_id")


def sum_usage_by(account: Account, chosen: UsageFilter, group: str) -> list[UsageSum]:
    """What was chosen, by day (newest first), or by model, key or tag (the dearest first)."""
    events = choose_usage(UsageEvent.objects.filter(account=account), chosen)
    match group:
        case "day":
            rows = events.annotate(group=TruncDate("occurred_at", tzinfo=UTC))
        case "model":
            rows = events.annotate(group=F("version__model__id"))
        case "tag":
            rows = events.annotate(group=F("tag"))
        case _:
            rows = events.annotate(group=F("api_key_id"))
    # Not by the names of the columns: those would be summed again.
    sums = rows.values("group").annotate(
        predictions=Count("pk"), all_units=Sum("units"), gross=Sum("gross_nanos")
    )
    ordered = sums.order_by("-group" if group == "day" else "-gross", "group")[:SUMS_MAX]
    found = list(ordered)
    names = _name_groups(group, [row["group"] for row in found])
    return [
        UsageSum(
            # Who tries a model on its page uses no key.
            name=names.get(row["group"]) or _NO_KEY[row["group"] is None],
            predictions=row["predictions"],
            units=row["all_units"],
            gross_nanos=row["gross"],
        )
        for row in found
    ]


def stream_usage(account: Account, chosen: UsageFilter) -> Iterator[UsageEvent]:
    """What was chosen, oldest first, without holding all of it."""
    events = list_usage(account, chosen).order_by("prediction_id")
    return events.iterator(chunk_size=_EVENTS_PER_FETCH)


def choose_usage(events: QuerySet[UsageEvent], chosen: UsageFilter) -> QuerySet[UsageEvent]:
    """The part of some usage events that was chosen."""
    # Ids begin with the time: they find the days by the index of the account.
    if chosen.since is not None:
        begin = datetime.combine(chosen.since, time(), UTC)
        events = events.filter(
            occurred_at__gte=begin, prediction_id__gte=ids.lowest_id(begin - BOOKED_WITHIN)
        )
    if chosen.until is not None:
        end = datetime.combine(chosen.until, time(), UTC) + timedelta(days=1)
        events = events.filter(
            occurred_at__lt=end, prediction_id__lt=ids.lowest_id(end + BOOKED_WITHIN)
        )
    if chosen.model:
        owner, _, name = chosen.model.partition("/")
        events = events.filter(version__model__account__slug=owner, version__model__name=name)
    if chosen.key_id is not None:
        events = events.filter(api_key_id=chosen.key_id)
    if chosen.mode:
        events = events.filter(mode=chosen.mode)
    if chosen.tag:
        events = events.filter(tag=chosen.tag)
    return events


def _name_groups(group: str, values: list[Any]) -> dict[Any, str]:
    match group:
        case "day":
            return {one: one.isoformat() for one in values}
        case "model":
            models = AIModel.objects.filter(pk__in=values).select_related("account")
            return {one.pk: str(one) for one in models}
        case "tag":
            return {one: one or _NO_TAG for one in values}
    keys = APIKey.objects.filter(pk__in=[one for one in values if one])
    return {one.pk: f"{one.name} ({one.hint})" for one in keys}


def sum_usage(account: Account, chosen: UsageFilter | None = None) -> tuple[int, int]:
    """How many predictions an account has had booked, and what they cost in nanos."""
    totals = choose_usage(
        UsageEvent.objects.filter(account=account), chosen or UsageFilter()
    ).aggregate(predictions=Count("pk"), gross_nanos=Sum("gross_nanos"))
    return totals["predictions"], totals["gross_nanos"] or 0
