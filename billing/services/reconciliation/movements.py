"""Every movement on Stripe's balance is booked once, with its amount and its fee.

The other comparers look at what moved money; this one at the money itself. What they found
out about an object explains its movement too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from billing.services.reconciliation.books import Booking, list_bookings
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
from billing.services.reconciliation.stripe_side import CHARGE_TYPES, StripeSide
from billing.stripe.client import BalanceTransaction
from marketplace.core.money import NANOS_PER_CENT

CURRENCY = "usd"
# Between clocks; nothing of ours is booked before it happened at Stripe.
CLOCK_MARGIN = timedelta(hours=1)
# A fee is known a while after the payment; a poll books it then.
FEE_AGE = timedelta(days=3)
# The platform's own money between Stripe and its bank: not in this ledger.
BANK_TYPES = frozenset({"payout", "payout_cancel", "payout_failure", "topup", "topup_reversal"})
# What Stripe takes for itself, without a payment of ours behind it.
OWN_FEE_TYPES = frozenset({"stripe_fee", "stripe_fx_fee", "tax_fee"})


@dataclass(frozen=True, slots=True)
class _Side:
    gross: list[Fact]
    fees: list[Fact]


def compare_movements(
    period: Period, stripe: StripeSide, earlier: Iterable[Finding]
) -> list[Comparison]:
    """Bookings over `stripe_clearing` and `stripe_fee`, and movements with their fees.

    Args:
        period: Which time.
        stripe: Stripe's side.
        earlier: What the comparers of single objects found; their explanations hold here.
    """
    bookings = list_bookings(period.since - CLOCK_MARGIN)
    keys = {row.id: _key_of(row, stripe) for row in stripe.movements.values()}
    movements = dict(stripe.movements)
    _look_up_missing(bookings, movements, keys, period, stripe)
    ours, theirs = _our_side(bookings), _their_side(movements.values(), keys)
    facts = (*ours.gross, *ours.fees, *theirs.gross, *theirs.fees)
    wanted = {fact.key for fact in facts if fact.happened_at in period}
    summed = [key for key in wanted if key.startswith(("dp_", "du_"))]
    explanations = {
        finding.key: finding for finding in earlier if finding.explanation != Explanation.NONE
    }
    compared = []
    for kind, mine, stripes in (
        (Kind.MOVEMENT, ours.gross, theirs.gross),
        (Kind.FEE, ours.fees, theirs.fees),
    ):
        one = pair(
            kind,
            [fact for fact in mine if fact.key in wanted],
            [fact for fact in stripes if fact.key in wanted],
            summed=summed,
        )
        one.findings = [
            _explain(finding, period, movements, stripe, explanations) for finding in one.findings
        ]
        compared.append(one)
    compared[0].findings += _check_currencies(movements.values(), keys, period)
    return compared


def _our_side(bookings: Iterable[Booking]) -> _Side:
    gross, fees = [], []
    for row in bookings:
        source = row.stripe_id or f"transfer:{row.transfer_id}"
        if row.gross_nanos:
            key = _signed(source, row.gross_nanos)
            gross.append(Fact(key, str(row.transfer_id), row.gross_nanos, row.created_at))
        if row.fee_nanos:
            fees.append(Fact(source, str(row.transfer_id), row.fee_nanos, row.created_at))
    return _Side(gross, fees)


def _their_side(movements: Iterable[BalanceTransaction], keys: Mapping[str, str]) -> _Side:
    gross, fees = [], []
    for row in movements:
        if row.currency != CURRENCY:
            continue
        amount, fee = row.amount * NANOS_PER_CENT, row.fee * NANOS_PER_CENT
        if row.type in OWN_FEE_TYPES:
            amount, fee = 0, fee - amount
        if amount:
            gross.append(Fact(_signed(keys[row.id], amount), row.id, amount, row.created_at))
        if fee:
            fees.append(Fact(keys[row.id], row.id, fee, row.created_at))
    return _Side(gross, fees)


def _signed(source: str, amount_nanos: int) -> str:
    """A refund that failed comes back under the same id: the direction tells them apart.

    Disputes go back and forth; their sums are compared.
    """
    if source.startswith(("dp_", "du_")):
        return source
    return f"{source} {'in' if amount_nanos > 0 else 'out'}"


def _key_of(row: BalanceTransaction, stripe: StripeSide) -> str:
    """What we call the object behind a movement."""
    source = row.source or row.id
    if row.type in CHARGE_TYPES:
        charge = stripe.find_charge(source)
        if charge is not None and charge.payment_intent_id:
            return charge.payment_intent_id
    return source


def _look_up_missing(
    bookings: Iterable[Booking],
    movements: dict[str, BalanceTransaction],
    keys: dict[str, str],
    period: Period,
    stripe: StripeSide,
) -> None:
    """Add the movements of bookings in the period whose money moved long before it."""
    known = set(keys.values())
    for row in bookings:
        if row.created_at not in period or not row.stripe_id or row.stripe_id in known:
            continue
        for transaction_id in _movements_of(row.stripe_id, stripe):
            found = stripe.find_movement(transaction_id)
            if found is not None and found.id not in movements:
                movements[found.id] = found
                keys[found.id] = _key_of(found, stripe)


def _movements_of(stripe_id: str, stripe: StripeSide) -> list[str | None]:
    prefix = stripe_id.partition("_")[0]
    if prefix == "pi":
        payment = stripe.find_payment(stripe_id)
        charge_id = payment.latest_charge_id if payment else None
        charge = stripe.find_charge(charge_id) if charge_id else None
        return [charge.balance_transaction_id] if charge else []
    if prefix in ("re", "pyr"):
        refund = stripe.find_refund(stripe_id)
        return [refund.balance_transaction_id] if refund else []
    if prefix in ("dp", "du"):
        dispute = stripe.find_dispute(stripe_id)
        return list(dispute.balance_transaction_ids) if dispute else []
    if prefix == "txn":
        return [stripe_id]
    return []


def _explain(
    finding: Finding,
    period: Period,
    movements: Mapping[str, BalanceTransaction],
    stripe: StripeSide,
    explanations: Mapping[str, Finding],
) -> Finding:
    source = finding.key.partition(" ")[0]
    row = movements.get(finding.stripe_id)
    if row is not None and row.type in BANK_TYPES:
        return finding.explained(Explanation.BANK, "The platform's own money.")
    known = explanations.get(source)
    if known is not None and finding.fault in (Fault.MISSING_HERE, Fault.AMOUNT):
        return finding.explained(known.explanation, known.note)
    if finding.fault is Fault.MISSING_HERE:
        if period.is_young(finding.happened_at):
            return finding.explained(Explanation.IN_FLIGHT)
        if finding.kind is Kind.FEE and finding.happened_at > period.now - FEE_AGE:
            return finding.explained(Explanation.FEE)
    if finding.fault is Fault.MISSING_AT_STRIPE and _is_pending(source, stripe):
        return finding.explained(
            Explanation.PENDING_AT_STRIPE, "Stripe has the object, and has not moved money yet."
        )
    return finding


def _is_pending(source: str, stripe: StripeSide) -> bool:
    """Whether Stripe has the object and says that its money has yet to move."""
    found = _movements_of(source, stripe)
    return bool(found) and all(one is None for one in found)


def _check_currencies(
    movements: Iterable[BalanceTransaction], keys: Mapping[str, str], period: Period
) -> list[Finding]:
    """Money in a currency that we never asked for cannot be ours."""
    return [
        Finding(
            Kind.MOVEMENT,
            Fault.STATE,
            keys[row.id],
            row.created_at,
            stripe_id=row.id,
            note=f"It is {row.amount} of {row.currency}; we take {CURRENCY} only.",
        )
        for row in movements
        if row.currency != CURRENCY and row.created_at in period
    ]
