"""Refunds: each at Stripe is one of ours, over the same amount, and came to the same end."""

from __future__ import annotations

from uuid import UUID

from billing.models import TopupRefund
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
from billing.services.reconciliation.traces import has_heard_of, read_id
from billing.stripe.client import Refund
from marketplace.core.money import NANOS_PER_CENT

METADATA_KEY = "refund_id"
_STATES = {
    TopupRefund.State.IN_FLIGHT: "on its way",
    TopupRefund.State.SUCCEEDED: "paid",
    TopupRefund.State.FAILED: "failed",
}
_STRIPE_STATES = {"succeeded": "paid", "failed": "failed", "canceled": "failed"}


def compare_refunds(period: Period, stripe: StripeSide) -> Comparison:
    """Refunds that were made, and refunds that we asked for."""
    ours = _list_ours(period, list(stripe.refunds))
    theirs = choose_theirs(
        stripe.refunds, (row.stripe_refund_id for row in ours), stripe.find_refund, period
    )
    compared = pair(
        Kind.REFUND, [_our_fact(row) for row in ours], [_their_fact(one) for one in theirs]
    )
    compared.findings = [_explain(finding, period, stripe) for finding in compared.findings]
    return compared


def _list_ours(period: Period, stripe_ids: list[str]) -> list[TopupRefund]:
    rows = TopupRefund.objects.select_related("topup").exclude(
        # Refused before it began: Stripe has nothing of it.
        state=TopupRefund.State.FAILED,
        stripe_refund_id=None,
    )
    inside = rows.filter(created_at__gte=period.since, created_at__lt=period.until)
    return list((inside | rows.filter(stripe_refund_id__in=stripe_ids)).order_by("created_at"))


def _our_fact(row: TopupRefund) -> Fact:
    return Fact(
        key=row.stripe_refund_id or f"refund:{row.pk}",
        id=str(row.pk),
        amount_nanos=-row.gross_cents * NANOS_PER_CENT,
        happened_at=row.created_at,
        owner=row.topup.payment_intent_id or "",
        state=_STATES[TopupRefund.State(row.state)],
    )


def _their_fact(refund: Refund) -> Fact:
    return Fact(
        key=refund.id,
        id=refund.id,
        amount_nanos=-refund.amount * NANOS_PER_CENT,
        happened_at=refund.created_at,
        owner=refund.payment_intent_id or "",
        state=_STRIPE_STATES.get(refund.status or "", "on its way"),
    )


def _explain(finding: Finding, period: Period, stripe: StripeSide) -> Finding:
    late = (
        Explanation.IN_FLIGHT
        if period.is_young(finding.happened_at)
        else Explanation.NOT_YET_APPLIED
    )
    match finding.fault:
        case Fault.STATE:
            # A bank can refuse weeks later; what Stripe says last is what counts.
            if "Stripe's on its way" not in finding.note and "Ours is failed" not in finding.note:
                return finding.explained(late)
        case Fault.MISSING_AT_STRIPE:
            if not finding.key.startswith("re"):
                return finding
            if finding.key.startswith("refund:"):
                return finding.explained(late, "Stripe was not asked yet, or has not answered.")
        case Fault.MISSING_HERE:
            return _explain_missing(finding, late, stripe)
    return finding


def _explain_missing(finding: Finding, late: Explanation, stripe: StripeSide) -> Finding:
    refund = stripe.find_refund(finding.key)
    refund_id: UUID | None = read_id(refund.metadata.get(METADATA_KEY, "") if refund else "")
    if refund_id is None:
        return finding.explained(Explanation.NONE, "Nobody asked for it here.")
    row = TopupRefund.objects.filter(pk=refund_id).first()
    if row is not None and row.stripe_refund_id is None:
        return finding.explained(late, f"It is refund {refund_id}; its answer was lost.")
    if row is None and not has_heard_of(refund_id, f"refund:{refund_id}"):
        return finding.explained(
            Explanation.RESTORED_DATABASE, f"Nothing here has ever heard of refund {refund_id}."
        )
    return finding
