"""Read what keys have cost against their budgets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from django.db.models import Exists, F, OuterRef, Subquery

from billing.models import BudgetAlert, KeySpend
from marketplace.models import APIKey

Period = KeySpend.Period

# The start of the period that has none.
ALWAYS = date(1970, 1, 1)
# Of the keys, by period.
BUDGET_COLUMNS: Mapping[str, str] = {
    Period.DAY: "budget_day_nanos",
    Period.MONTH: "budget_month_nanos",
    Period.TOTAL: "budget_total_nanos",
}


@dataclass(frozen=True, slots=True)
class Budget:
    """One budget of a key, in the period that runs now."""

    period: str
    starts_on: date
    budget_nanos: int
    spent_nanos: int
    held_nanos: int

    @property
    def percent(self) -> int:
        """How much of it is spent, rounded down: 100 is all of it, never nearly all."""
        return self.spent_nanos * 100 // self.budget_nanos

    @property
    def bar_percent(self) -> int:
        """The same for a bar, which is not longer than its place."""
        return min(self.percent, 100)

    @property
    def left_nanos(self) -> int:
        """What may still be spent or reserved; none where the budget was lowered below it."""
        return max(0, self.budget_nanos - self.spent_nanos - self.held_nanos)


@dataclass(frozen=True, slots=True)
class Crossing:
    """A key that has spent a part of a budget, and nobody was told."""

    api_key: APIKey
    period: str
    starts_on: date
    percent: int
    budget_nanos: int
    spent_nanos: int


def starts_at(moment: datetime) -> dict[str, date]:
    """By period: the first day of the one that a moment lies in, by UTC."""
    today = moment.astimezone(UTC).date()
    return {Period.DAY: today, Period.MONTH: today.replace(day=1), Period.TOTAL: ALWAYS}


def list_budgets(api_key: APIKey, now: datetime) -> list[Budget]:
    """The budgets of a key with what they have been used for; a test key has none."""
    if api_key.mode != APIKey.Mode.LIVE:
        return []
    starts = starts_at(now)
    spends = {
        (spend.period, spend.starts_on): spend
        for spend in KeySpend.objects.filter(
            api_key_id=api_key.pk, starts_on__in=set(starts.values())
        )
    }
    budgets = []
    for period, column in BUDGET_COLUMNS.items():
        budget_nanos = getattr(api_key, column)
        if budget_nanos is not None:
            spend = spends.get((period, starts[period]))
            spent_nanos, held_nanos = (spend.spent_nanos, spend.held_nanos) if spend else (0, 0)
            budgets.append(Budget(period, starts[period], budget_nanos, spent_nanos, held_nanos))
    return budgets


def list_crossings(
    now: datetime, *, percents: tuple[int, ...], lookback: timedelta
) -> Iterator[Crossing]:
    """Budgets of which a part is spent and nobody was told.

    Args:
        now: Says which periods run.
        percents: The parts.
        lookback: A period that ended so recently still counts.
    """
    for period, column in BUDGET_COLUMNS.items():
        for starts_on in {starts_at(now - lookback)[period], starts_at(now)[period]}:
            spend = KeySpend.objects.filter(
                api_key_id=OuterRef("pk"), period=period, starts_on=starts_on
            )
            for percent in percents:
                told = BudgetAlert.objects.filter(
                    api_key=OuterRef("pk"), period=period, starts_on=starts_on, percent=percent
                )
                found = (
                    APIKey.objects.filter(mode=APIKey.Mode.LIVE, **{f"{column}__isnull": False})
                    .annotate(spent_nanos=Subquery(spend.values("spent_nanos")))
                    .filter(~Exists(told), spent_nanos__gt=0)
                    .annotate(spent_hundredfold=F("spent_nanos") * 100)
                    .filter(spent_hundredfold__gte=F(column) * percent)
                )
                for api_key in found:
                    yield Crossing(
                        api_key,
                        period,
                        starts_on,
                        percent,
                        budget_nanos=getattr(api_key, column),
                        spent_nanos=api_key.spent_nanos,
                    )
