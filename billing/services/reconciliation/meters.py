"""Reported usage: the meter at Stripe counted, hour by hour, what was reported to it."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta

from billing.models import MeterReport, PostpaidTerms, StripeCustomer
from billing.services.meter import NANOS_PER_MICRO
from billing.services.reconciliation.finding import (
    Comparison,
    Explanation,
    Fact,
    Fault,
    Finding,
    Kind,
    Period,
    pair,
)
from billing.services.reconciliation.stripe_side import StripeSide
from billing.services.stripe_client import get_stripe

HOUR = timedelta(hours=1)


def compare_meters(period: Period, _stripe: StripeSide) -> Comparison:
    """Each hour of each account that pays later."""
    since, until = _floor(period.since), _floor(period.until + HOUR)
    ours: list[Fact] = []
    theirs: list[Fact] = []
    unsure: dict[str, Explanation] = {}
    customers = dict(StripeCustomer.objects.values_list("account_id", "customer_id"))
    for terms in PostpaidTerms.objects.exclude(meter_id="").order_by("pk"):
        customer_id = customers.get(terms.account_id, "")
        ours += _list_ours(terms, customer_id, since, until, period, unsure)
        hours = get_stripe().summarize_meter(
            meter_id=terms.meter_id, customer_id=customer_id, start=since, end=until
        )
        for hour in hours:
            key = _key(customer_id, hour.start)
            theirs.append(Fact(key, key, hour.value * NANOS_PER_MICRO, hour.start))
    compared = pair(Kind.METER, ours, theirs)
    compared.findings = [_explain(one, unsure) for one in compared.findings]
    return compared


def _list_ours(
    terms: PostpaidTerms,
    customer_id: str,
    since: datetime,
    until: datetime,
    period: Period,
    unsure: dict[str, Explanation],
) -> list[Fact]:
    """One fact for each hour; which of them Stripe may not have counted yet is noted apart."""
    sums: dict[datetime, int] = defaultdict(int)
    reports = MeterReport.objects.filter(
        account_id=terms.account_id, counted_at__gte=since, counted_at__lt=until
    )
    for report in reports:
        hour = _floor(report.counted_at)
        sums[hour] += report.value_micro
        key = _key(customer_id, hour)
        if report.state in (MeterReport.State.NEW, MeterReport.State.SENT):
            young = period.is_young(report.created_at)
            unsure[key] = Explanation.IN_FLIGHT if young else Explanation.NOT_YET_APPLIED
        elif report.sent_at is not None and period.is_young(report.sent_at):
            unsure.setdefault(key, Explanation.PENDING_AT_STRIPE)
    return [
        Fact(_key(customer_id, hour), _key(customer_id, hour), micro * NANOS_PER_MICRO, hour)
        for hour, micro in sums.items()
        if micro
    ]


def _explain(finding: Finding, unsure: dict[str, Explanation]) -> Finding:
    """Stripe counts with a delay: it may have less than was reported, and never more."""
    explanation = unsure.get(finding.key)
    has_more = (finding.stripe_nanos or 0) > (finding.our_nanos or 0)
    if explanation is None or has_more or finding.fault is Fault.DUPLICATE:
        return finding
    return finding.explained(explanation, "Stripe has not counted all that was reported.")


def _key(customer_id: str, hour: datetime) -> str:
    return f"{customer_id}:{hour:%Y%m%dT%H}"


def _floor(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)
