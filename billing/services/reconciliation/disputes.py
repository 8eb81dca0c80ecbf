"""Disputes of payments of ours: what the bank took and what Stripe kept for it is booked."""

from __future__ import annotations

from billing.models import Dispute, Invoice, Topup
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
from billing.stripe.client import Dispute as StripeDispute
from marketplace.core.money import NANOS_PER_CENT

_WON = frozenset({"won", "warning_closed", "prevented"})


def compare_disputes(period: Period, stripe: StripeSide) -> Comparison:
    """Disputes that were opened in the period, ours that are open, and what each came to."""
    ours = _list_ours(period, list(stripe.disputes))
    theirs = choose_theirs(
        stripe.disputes, (row.dispute_id for row in ours), stripe.find_dispute, period
    )
    compared = pair(
        Kind.DISPUTE, [_our_fact(row) for row in ours], [_their_fact(one) for one in theirs]
    )
    compared.findings = [_explain(finding, period, stripe) for finding in compared.findings]
    return compared


def _list_ours(period: Period, dispute_ids: list[str]) -> list[Dispute]:
    rows = Dispute.objects.select_related("topup").filter(created_at__lt=period.until)
    chosen = (
        rows.filter(created_at__gte=period.since)
        | rows.filter(state=Dispute.State.OPEN)
        | rows.filter(dispute_id__in=dispute_ids)
    )
    return list(chosen.order_by("created_at"))


def _our_fact(row: Dispute) -> Fact:
    return Fact(
        key=row.dispute_id,
        id=str(row.pk),
        amount_nanos=-(row.withdrawn_cents + row.fee_cents) * NANOS_PER_CENT,
        happened_at=row.created_at,
        owner=(row.topup.payment_intent_id if row.topup else row.payment_intent_id) or "",
        state=row.state,
    )


def _their_fact(dispute: StripeDispute) -> Fact:
    return Fact(
        key=dispute.id,
        id=dispute.id,
        amount_nanos=-(dispute.withdrawn_cents + dispute.fee_cents) * NANOS_PER_CENT,
        happened_at=dispute.created_at,
        owner=dispute.payment_intent_id or "",
        state=_state_of(dispute),
    )


def _state_of(dispute: StripeDispute) -> str:
    if dispute.status in _WON:
        return "won"
    return "lost" if dispute.status == "lost" else "open"


def _explain(finding: Finding, period: Period, stripe: StripeSide) -> Finding:
    """What Stripe says last is what counts: one that is open here may be decided there."""
    dispute = stripe.find_dispute(finding.key)
    is_ours = dispute is not None and _is_of_ours(dispute.payment_intent_id or "", stripe)
    row = Dispute.objects.filter(dispute_id=finding.key).first()
    is_open = row is None or row.state == Dispute.State.OPEN
    if not is_ours or not is_open or finding.fault in (Fault.DUPLICATE, Fault.OWNER):
        return finding
    is_same_state = dispute is not None and row is not None and _state_of(dispute) == row.state
    if finding.fault is Fault.AMOUNT and is_same_state and row is not None and row.withdrawn_cents:
        # In the same state the amounts are the same; else somebody changed one.
        return finding
    if period.is_young(finding.happened_at):
        return finding.explained(Explanation.IN_FLIGHT)
    return finding.explained(
        Explanation.NOT_YET_APPLIED, "Stripe says more of it than we have booked."
    )


def _is_of_ours(payment_intent_id: str, stripe: StripeSide) -> bool:
    """Whether a payment bought credit, or paid an invoice, of an account of ours."""
    if Topup.objects.filter(payment_intent_id=payment_intent_id).exists():
        return True
    invoice_id = stripe.find_invoice_of_payment(payment_intent_id) if payment_intent_id else None
    return Invoice.objects.filter(stripe_id=invoice_id or "").exists()
