"""Read how much of its error budget a model has left, and how fast it is used up.

An event is good or bad: bad is what the platform or the model failed to answer, good what was
answered; what the consumer got wrong or gave up is neither. The budget is the share of bad
events that the target allows in its window; a burn rate of 1 uses it up in exactly the window.

Source: Google, "The Site Reliability Workbook", chapter 5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection

from inference.core import histogram
from inference.models import SLO
from marketplace.core.clock import utc_now
from marketplace.models import AIModel

# What a target is counted in.
WHOLE = 100_000
# A long window tells that it matters, a short one that it still goes on: minutes, and burn
# rates at which 2 %, 5 % and 10 % of a budget of thirty days are gone in the long window.
ALARMS = ((60, 5, 14.4), (360, 30, 6.0), (4_320, 360, 1.0))
WINDOWS = (("5 min", 5), ("30 min", 30), ("1 h", 60), ("6 h", 360), ("1 d", 1_440), ("3 d", 4_320))
# Shorter windows are read from minutes, longer ones from hours.
MINUTES_MAX = 360

_BAD = "failed_model + failed_timeout + failed_capacity + failed_platform + refused_capacity"
_LATENCY = """
    SELECT b.bucket, sum(b.n)::bigint
    FROM inference_metric, unnest(latency_buckets, latency_counts) AS b(bucket, n)
    WHERE model_id = %(model_id)s AND resolution = %(resolution)s AND starts_at >= %(since)s
    GROUP BY 1
"""


@dataclass(frozen=True, slots=True)
class Count:
    """Good and bad events."""

    good: int
    bad: int

    @property
    def total(self) -> int:
        """Both."""
        return self.good + self.bad

    @property
    def good_share(self) -> float | None:
        """From 0 to 1."""
        return self.good / self.total if self.total else None

    def find_burn(self, target: int) -> float | None:
        """How many times as fast as allowed the budget is used; None without events."""
        if not self.total:
            return None
        return self.bad * WHOLE / (self.total * (WHOLE - target))

    def find_left(self, target: int) -> float | None:
        """The share of the budget that is left: 1 for all, below 0 where it is overdrawn."""
        burn = self.find_burn(target)
        return None if burn is None else 1 - burn


@dataclass(frozen=True, slots=True)
class Burn:
    """The burn rate over one window."""

    label: str
    minutes: int
    rate: float | None


@dataclass(frozen=True, slots=True)
class Alarm:
    """A long and a short window that both burn faster than they should."""

    long: str
    short: str
    rate: float


@dataclass(frozen=True, slots=True)
class State:
    """Where a model stands."""

    slo: SLO
    count: Count
    # Bad events that the target allows of so many, and that are left of these.
    allowed: float
    left: float | None
    burns: list[Burn]
    alarms: list[Alarm]
    latency: Count | None
    latency_left: float | None

    @property
    def availability_text(self) -> str:
        """The share of good events, never rounded up to more than it is."""
        return _percent(self.count.good_share)

    @property
    def target_text(self) -> str:
        """What was promised of it."""
        return f"target {self.slo.availability_target / 1000:g} % over {self.slo.window_days} days"

    @property
    def left_text(self) -> str:
        """What is left of the budget."""
        return _percent(self.left, digits=1)

    @property
    def allowed_text(self) -> str:
        """The budget in events."""
        return f"{self.count.bad:,} failed, {self.allowed:,.1f} allowed"

    @property
    def latency_text(self) -> str:
        """The share of successes that were in time."""
        return _percent(self.latency.good_share if self.latency else None)

    @property
    def latency_target_text(self) -> str:
        """What was promised of these."""
        slo = self.slo
        return f"target {slo.latency_target / 1000:g} % within {slo.latency_ms:,} ms"


def _percent(share: float | None, *, digits: int = 3) -> str:
    if share is None:
        return "—"
    step = 10**digits
    return f"{math.floor(share * 100 * step + 1e-9) / step:.{digits}f} %"


def find_slo(model: AIModel) -> SLO | None:
    """What the creator promised, if anything."""
    return SLO.objects.filter(model=model).first()


def read_state(slo: SLO) -> State:
    """Count over its windows, in three statements at most."""
    now = utc_now()
    counts = read_counts(slo.model_id, now)
    whole = _count(slo.model_id, _name_resolution(slo), now, {"whole": slo.window_days * 1_440})
    count = whole["whole"]
    burns = [
        Burn(label, minutes, counts[minutes].find_burn(slo.availability_target))
        for label, minutes in WINDOWS
    ]
    latency = _count_latency(slo, now) if slo.latency_ms else None
    return State(
        slo=slo,
        count=count,
        allowed=count.total * (WHOLE - slo.availability_target) / WHOLE,
        left=count.find_left(slo.availability_target),
        burns=burns,
        alarms=list_alarms({one.minutes: one.rate for one in burns}),
        latency=latency,
        latency_left=latency.find_left(slo.latency_target) if latency else None,
    )


def list_alarms(rates: Mapping[int, float | None]) -> list[Alarm]:
    """The pairs of windows that both burn too fast."""
    labels = {minutes: label for label, minutes in WINDOWS}
    return [
        Alarm(labels[long], labels[short], rate)
        for long, short, rate in ALARMS
        if (rates[long] or 0) >= rate and (rates[short] or 0) >= rate
    ]


def read_counts(model_id: UUID, now: datetime) -> dict[int, Count]:
    """Good and bad by the minutes of each of `WINDOWS`."""
    short = {minutes: minutes for _, minutes in WINDOWS if minutes <= MINUTES_MAX}
    long = {minutes: minutes for _, minutes in WINDOWS if minutes > MINUTES_MAX}
    return _count(model_id, "minute", now, short) | _count(model_id, "hour", now, long)


def _name_resolution(slo: SLO) -> str:
    # Hours are kept for 31 days at least, and days for 91.
    return "hour" if slo.window_days <= 30 else "day"


def _count(
    model_id: UUID, resolution: str, now: datetime, windows: Mapping[Any, int]
) -> dict[Any, Count]:
    """One statement for all windows of a resolution, with the span that each begins in."""
    columns: list[str] = []
    parameters: dict[str, Any] = {"model_id": model_id, "resolution": resolution}
    for index, minutes in enumerate(windows.values()):
        name = f"since_{index}"
        parameters[name] = now - timedelta(minutes=minutes)
        columns += [
            f"COALESCE(sum({sums}) FILTER (WHERE starts_at >= %({name})s), 0)::bigint"
            for sums in ("succeeded", _BAD)
        ]
    parameters["since"] = now - timedelta(minutes=max(windows.values()))
    statement = (
        f"SELECT {', '.join(columns)} FROM inference_metric WHERE model_id = %(model_id)s"  # noqa: S608
        " AND resolution = %(resolution)s AND starts_at >= %(since)s"
    )
    with connection.cursor() as sql:
        sql.execute(statement, parameters)
        row = sql.fetchone()
    return {
        name: Count(good=row[2 * index], bad=row[2 * index + 1])
        for index, name in enumerate(windows)
    }


def _count_latency(slo: SLO, now: datetime) -> Count:
    assert slo.latency_ms is not None
    parameters: dict[str, Any] = {
        "model_id": slo.model_id,
        "resolution": _name_resolution(slo),
        "since": now - timedelta(days=slo.window_days),
    }
    with connection.cursor() as sql:
        sql.execute(_LATENCY, parameters)
        counts = dict(sql.fetchall())
    good = histogram.count_within(counts, slo.latency_ms)
    return Count(good=good, bad=sum(counts.values()) - good)
