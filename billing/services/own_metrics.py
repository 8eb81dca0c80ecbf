"""Numbers of the platform that billing knows: the books, receipts, Stripe, reconciliation."""

from __future__ import annotations

from django.db import connection
from django.db.models import Count, Min, Q, Sum

from billing.models import LedgerAccount, MeterReport, ReceiptBatch, ReconcileRun, StripeEvent
from marketplace.services.platform_metrics import Part, Samples, age_s, gauge

# The first charge behind the mark of the last batch, in the order in which they are sealed.
_UNSEALED = """
    SELECT u.occurred_at FROM billing_usageevent u
    WHERE (u.xid, u.prediction_id) > (%s::text::xid8, %s)
    ORDER BY u.xid, u.prediction_id LIMIT 1
"""
_NOWHERE = "00000000-0000-0000-0000-000000000000"


def _read_ledger() -> Samples:
    posted = LedgerAccount.objects.aggregate(
        credits=Sum("posted_nanos", filter=Q(posted_nanos__gt=0)),
        debits=Sum("posted_nanos", filter=Q(posted_nanos__lt=0)),
        held=Sum("held_nanos"),
    )
    credit, debit = int(posted["credits"] or 0), -int(posted["debits"] or 0)
    yield "ledger_credits_nanos", credit, {}
    yield "ledger_debits_nanos", debit, {}
    # Beside the sums, which a 64-bit float rounds: this is exact.
    yield "ledger_imbalance_nanos", credit - debit, {}
    yield "ledger_held_nanos", int(posted["held"] or 0), {}


def _read_reconciliation() -> Samples:
    finished = ReconcileRun.objects.exclude(state=ReconcileRun.State.RUNNING)
    compared = finished.exclude(state=ReconcileRun.State.FAILED)
    last = finished.order_by("-started_at").first()
    good = compared.filter(finished_at__isnull=False).order_by("-started_at").first()
    yield "reconciliation_failed", int(last is not None and last.state == last.State.FAILED), {}
    if good is not None:
        yield "reconciliation_age_seconds", age_s(good.finished_at), {}
        yield "reconciliation_differences", good.difference_count, {"explained": "all"}
        yield "reconciliation_differences", good.unexplained_count, {"explained": "no"}


def _read_usage() -> Samples:
    state = MeterReport.State
    waiting = MeterReport.objects.filter(state__in=[state.NEW, state.SENT])
    found = waiting.aggregate(count=Count("pk"), oldest=Min("created_at"))
    yield "usage_reports_waiting", found["count"], {}
    yield "usage_reports_oldest_seconds", age_s(found["oldest"]), {}
    yield "usage_reports_unclear", MeterReport.objects.filter(state=state.UNCLEAR).count(), {}
    last = ReceiptBatch.objects.order_by("-seq").first()
    mark = (0, _NOWHERE) if last is None else (last.mark_transaction, str(last.mark_id))
    with connection.cursor() as cursor:
        cursor.execute(_UNSEALED, mark)
        row = cursor.fetchone()
    yield "receipts_unsealed_seconds", age_s(row[0] if row else None), {}


def _read_stripe() -> Samples:
    received = StripeEvent.objects.filter(state=StripeEvent.State.RECEIVED)
    found = received.aggregate(count=Count("pk"), oldest=Min("received_at"))
    yield "stripe_events_waiting", found["count"], {}
    yield "stripe_events_oldest_seconds", age_s(found["oldest"]), {}


LEDGER = Part(
    "ledger",
    (
        gauge("ledger_credits_nanos", "What all pots above zero hold, in nano-dollars."),
        gauge("ledger_debits_nanos", "What all pots below zero lack, in nano-dollars."),
        gauge("ledger_imbalance_nanos", "Their difference: 0, or the books are broken."),
        gauge("ledger_held_nanos", "What running predictions have reserved."),
    ),
    _read_ledger,
)
RECONCILIATION = Part(
    "reconciliation",
    (
        gauge("reconciliation_failed", "1 where the last comparison did not come to its end."),
        gauge("reconciliation_age_seconds", "How long ago the last one that did has ended."),
        gauge("reconciliation_differences", "What it found.", ("explained",)),
    ),
    _read_reconciliation,
)
USAGE = Part(
    "usage",
    (
        gauge("usage_reports_waiting", "Usage of postpaid accounts that Stripe has not counted."),
        gauge("usage_reports_oldest_seconds", "Age of the first of these reports."),
        gauge("usage_reports_unclear", "Reports that a person has to look at."),
        gauge("receipts_unsealed_seconds", "Age of the first charge that has no receipt yet."),
    ),
    _read_usage,
)
STRIPE = Part(
    "stripe",
    (
        gauge("stripe_events_waiting", "Events of Stripe that are not applied."),
        gauge("stripe_events_oldest_seconds", "Age of the first of them."),
    ),
    _read_stripe,
)
PARTS = (LEDGER, RECONCILIATION, USAGE, STRIPE)
