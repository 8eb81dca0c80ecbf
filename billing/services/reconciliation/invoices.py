"""Invoices: as Stripe has them, and over what was reported, to a cent for each line."""

from __future__ import annotations

from billing.models import Adjustment, Invoice, StripeCustomer, Transfer
from billing.services.invoice import MICRO_PER_CENT, ROUNDING_MICRO_PER_LINE
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
from billing.services.reconciliation.stripe_side import StripeSide, choose_theirs
from billing.stripe.invoices import Invoice as StripeInvoice
from marketplace.core.money import NANOS_PER_CENT

State = Invoice.State
_OPEN = (State.DRAFT, State.OPEN, State.UNCOLLECTIBLE)


def compare_invoices(period: Period, stripe: StripeSide) -> Comparison:
    """Invoices of subscriptions, and ours of the period or still open."""
    listed = {one.id: one for one in stripe.invoices.values() if one.subscription_id is not None}
    ours = _list_ours(period, list(listed))
    known = {row.stripe_id: row for row in ours}
    theirs = choose_theirs(listed, known, stripe.find_invoice, period)
    customers = dict(StripeCustomer.objects.values_list("account_id", "customer_id"))
    compared = pair(
        Kind.INVOICE,
        [
            _fact(row.stripe_id, str(row.pk), row.total_cents, row, customers.get(row.account_id))
            for row in ours
        ],
        [_fact(one.id, one.id, one.total, one, one.customer) for one in theirs],
    )
    compared.findings = [_explain(one, period, known) for one in compared.findings]
    compared.findings += [
        finding for row in ours if (finding := _check_reports(row)) and row.created_at in period
    ]
    compared.findings += [
        finding for one in theirs if (finding := _check_write_off(one, known.get(one.id)))
    ]
    return compared


def _list_ours(period: Period, stripe_ids: list[str]) -> list[Invoice]:
    rows = Invoice.objects.filter(created_at__lt=period.until)
    chosen = (
        rows.filter(created_at__gte=period.since)
        | rows.filter(state__in=_OPEN)
        | rows.filter(booked_at__gte=period.since)
        | rows.filter(stripe_id__in=stripe_ids)
    )
    return list(chosen.order_by("created_at"))


def _fact(
    key: str, row_id: str, total_cents: int, row: Invoice | StripeInvoice, customer: str | None
) -> Fact:
    state = row.state if isinstance(row, Invoice) else row.status or ""
    return Fact(
        key=key,
        id=row_id,
        # A draft grows from hour to hour, and we look at it now and then.
        amount_nanos=0 if state == State.DRAFT else total_cents * NANOS_PER_CENT,
        happened_at=row.created_at,
        owner=f"{customer or ''} in {row.currency}",
        state=state,
    )


def _explain(finding: Finding, period: Period, known: dict[str, Invoice]) -> Finding:
    """What is not final here may be further there; what is final on both sides is the same."""
    row = known.get(finding.key)
    if finding.fault in (Fault.OWNER, Fault.DUPLICATE, Fault.MISSING_AT_STRIPE):
        return finding
    if row is not None and row.state not in _OPEN:
        return finding
    if Transfer.objects.filter(idempotency_key=f"invoice:{finding.key}").exists():
        return finding.explained(Explanation.NONE, "Its payment is booked, and its row is gone.")
    young = period.is_young(finding.happened_at)
    return finding.explained(
        Explanation.IN_FLIGHT if young else Explanation.NOT_YET_APPLIED,
        "It was not looked at since it changed.",
    )


def _check_write_off(one: StripeInvoice, row: Invoice | None) -> Finding | None:
    """What is given up here while Stripe goes on asking, or there while it is owed here."""
    if row is None or row.state != one.status:
        return None  # The comparison of states has said so.
    is_untold = row.written_off_nanos > 0 and one.status == State.OPEN
    if not is_untold and (row.written_off_nanos or one.status != State.UNCOLLECTIBLE):
        return None
    finding = Finding(
        Kind.INVOICE,
        Fault.STATE,
        row.stripe_id,
        row.created_at,
        our_id=f"write-off of {row.pk}",
        stripe_id=row.stripe_id,
        our_nanos=row.written_off_nanos,
        stripe_nanos=one.amount_remaining * NANOS_PER_CENT,
    )
    if is_untold:
        return finding.explained(
            Explanation.NOT_YET_APPLIED, "It is written off here, and Stripe was not told yet."
        )
    if row.write_offs.filter(state=Adjustment.State.PENDING).exists():
        return finding.explained(
            Explanation.IN_FLIGHT, "To write it off is proposed, and not approved yet."
        )
    return finding.explained(
        Explanation.NONE, "Stripe has given it up; it is owed here until it is written off."
    )


def _check_reports(row: Invoice) -> Finding | None:
    """What was reported of its period, against what it is over; drafts still grow."""
    if row.state not in (State.OPEN, State.PAID):
        return None
    allowed_micro = ROUNDING_MICRO_PER_LINE * max(1, len(row.lines))
    if abs(row.subtotal_cents * MICRO_PER_CENT - row.reported_micro) <= allowed_micro:
        return None
    return Finding(
        Kind.INVOICE,
        Fault.AMOUNT,
        row.stripe_id,
        row.created_at,
        our_id=f"reports of {row.pk}",
        stripe_id=row.stripe_id,
        our_nanos=row.reported_micro * NANOS_PER_MICRO,
        stripe_nanos=row.subtotal_cents * NANOS_PER_CENT,
        note="It is not over what was reported of its period.",
    )
