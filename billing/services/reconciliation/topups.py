"""Top-ups: each payment of one at Stripe is credited, once, to who paid it."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from billing.models import StripeCustomer, Topup
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
from billing.services.reconciliation.stripe_side import CHARGE_TYPES, StripeSide, choose_theirs
from billing.services.reconciliation.traces import has_heard_of, read_id
from billing.stripe.client import PaymentIntent
from marketplace.core.money import NANOS_PER_CENT

# Written on every payment of ours: which top-up it is.
METADATA_KEY = "topup_id"
CURRENCY = "usd"


def compare_topups(period: Period, stripe: StripeSide) -> Comparison:
    """Payments that succeeded and bear a top-up's id, and top-ups that were credited."""
    paid = {
        payment.id: payment
        for payment in _list_theirs(stripe)
        if payment.status == "succeeded" and METADATA_KEY in payment.metadata
    }
    ours = _list_ours(period, list(paid))

    def find_paid(payment_intent_id: str) -> PaymentIntent | None:
        # Paid long before the period, or gone.
        found = stripe.find_payment(payment_intent_id)
        return found if found is not None and found.status == "succeeded" else None

    theirs = choose_theirs(
        paid,
        (topup.payment_intent_id for topup in ours),
        find_paid,
        period,
        moment_of=lambda payment: _moment_of(payment, stripe),
    )
    customers = _map_customers([topup.account_id for topup in ours])
    compared = pair(
        Kind.TOPUP,
        [_our_fact(topup, customers.get(topup.account_id, "")) for topup in ours],
        [_their_fact(payment, stripe) for payment in theirs],
    )
    compared.findings = [_explain(finding, period, stripe) for finding in compared.findings]
    return compared


def _list_theirs(stripe: StripeSide) -> list[PaymentIntent]:
    """Payments begun of late, and those whose money came of late: banks take days."""
    for row in stripe.movements.values():
        charge = stripe.find_charge(row.source) if row.type in CHARGE_TYPES and row.source else None
        if charge is not None and charge.payment_intent_id:
            stripe.find_payment(charge.payment_intent_id)
    return list(stripe.payments.values())


def _list_ours(period: Period, payment_ids: list[str]) -> list[Topup]:
    credited = Topup.objects.filter(state=Topup.State.CREDITED).order_by("credited_at")
    inside = credited.filter(credited_at__gte=period.since, credited_at__lt=period.until)
    return list(inside.union(credited.filter(payment_intent_id__in=payment_ids)))


def _map_customers(account_ids: list[UUID]) -> dict[UUID, str]:
    rows = StripeCustomer.objects.filter(account_id__in=account_ids)
    return dict(rows.values_list("account_id", "customer_id"))


def _our_fact(topup: Topup, customer_id: str) -> Fact:
    assert topup.credited_at is not None, "it was credited"
    return Fact(
        key=topup.payment_intent_id or f"topup:{topup.pk}",
        id=str(topup.pk),
        amount_nanos=topup.gross_cents * NANOS_PER_CENT,
        happened_at=topup.credited_at,
        owner=f"{customer_id} in {CURRENCY} for {topup.pk}",
    )


def _their_fact(payment: PaymentIntent, stripe: StripeSide) -> Fact:
    named = payment.metadata.get(METADATA_KEY, "")
    return Fact(
        key=payment.id,
        id=payment.id,
        amount_nanos=payment.amount_received * NANOS_PER_CENT,
        happened_at=_moment_of(payment, stripe),
        owner=f"{payment.customer or ''} in {payment.currency} for {named}",
    )


def _moment_of(payment: PaymentIntent, stripe: StripeSide) -> datetime:
    """When the money came."""
    charge = stripe.find_charge(payment.latest_charge_id) if payment.latest_charge_id else None
    if charge is None:
        return stripe.period.since
    movement = stripe.find_movement(charge.balance_transaction_id)
    return movement.created_at if movement else charge.created_at


def _explain(finding: Finding, period: Period, stripe: StripeSide) -> Finding:
    if finding.fault is not Fault.MISSING_HERE:
        return finding
    payment = stripe.find_payment(finding.key)
    topup_id = read_id(payment.metadata.get(METADATA_KEY, "") if payment else "")
    topup = Topup.objects.filter(pk=topup_id).first() if topup_id else None
    if topup is None:
        if topup_id is not None and not has_heard_of(topup_id, f"topup:{topup_id}"):
            return finding.explained(
                Explanation.RESTORED_DATABASE,
                f"Nothing here has ever heard of top-up {topup_id}.",
            )
        return finding.explained(Explanation.NONE, "It names no top-up of ours.")
    if topup.state != Topup.State.OPEN:
        return finding.explained(
            Explanation.NONE, f"Top-up {topup.pk} is {topup.get_state_display().lower()}."
        )
    note = f"Top-up {topup.pk} was paid and is not credited yet."
    young = period.is_young(finding.happened_at)
    return finding.explained(Explanation.IN_FLIGHT if young else Explanation.NOT_YET_APPLIED, note)
