"""Every movement on Stripe's balance is booked once, with its amount and its fee.

The other comparers look at what moved money; this one at the money itself. What they found
out about an object explains its movement too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from billing.models import Topup, Transfer
from billing.services.reconciliation.books import Booking, find_refund_id, list_bookings
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
from billing.services.reconciliation.topups import METADATA_KEY
from billing.stripe.client import BalanceTransaction
from marketplace.core.money import NANOS_PER_CENT

CURRENCY = "usd"
DISPUTE_PREFIXES = ("dp_", "du_")
# Between clocks; nothing of ours is booked before it happened at Stripe.
CLOCK_MARGIN = timedelta(hours=1)
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
    bookings = [_named(row, stripe) for row in list_bookings(period.since - CLOCK_MARGIN)]
    keys = {row.id: _key_of(row, stripe) for row in stripe.movements.values()}
    movements = dict(stripe.movements)
    _look_up_missing(bookings, movements, keys, period, stripe)
    ours, theirs = _our_side(bookings), _their_side(movements.values(), keys)
    facts = (*ours.gross, *ours.fees, *theirs.gross, *theirs.fees)
    wanted = {fact.key for fact in facts if fact.happened_at in period}
    summed = [key for key in wanted if key.startswith(DISPUTE_PREFIXES)]
    booked = frozenset(row.stripe_id for row in bookings if row.gross_nanos)
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
            _explain(finding, period, movements, stripe, explanations, booked)
            for finding in one.findings
        ]
        compared.append(one)
    compared[0].findings += _check_currencies(movements.values(), keys, period)
    return compared


def _named(row: Booking, stripe: StripeSide) -> Booking:
    """A booking by the name that its movement has: a payment, not its charge."""
    stripe_id = row.stripe_id
    if stripe_id.startswith(("ch_", "py_")):
        charge = stripe.find_charge(stripe_id)
        payment_id = charge.payment_intent_id if charge else None
        stripe_id = _name_payment(payment_id, stripe) if payment_id else stripe_id
    if not stripe_id and row.kind == Transfer.Kind.REFUND_FAILED:
        stripe_id = find_refund_id(row.reference)
    return replace(row, stripe_id=stripe_id)


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
    if source.startswith(DISPUTE_PREFIXES):
        return source
    return f"{source} {'in' if amount_nanos > 0 else 'out'}"


def _key_of(row: BalanceTransaction, stripe: StripeSide) -> str:
    """What we call the object behind a movement."""
    source = row.source or row.id
    if row.type in OWN_FEE_TYPES:
        return row.id
    if row.type in CHARGE_TYPES:
        charge = stripe.find_charge(source)
        if charge is not None and charge.payment_intent_id:
            return _name_payment(charge.payment_intent_id, stripe)
    return source


def _name_payment(payment_intent_id: str, stripe: StripeSide) -> str:
    """A payment's id, or the invoice that it paid."""
    payment = stripe.find_payment(payment_intent_id)
    if payment is None or METADATA_KEY in payment.metadata:
        return payment_intent_id
    return stripe.find_invoice_of_payment(payment_intent_id) or payment_intent_id


def _look_up_missing(
    bookings: Iterable[Booking],
    movements: dict[str, BalanceTransaction],
    keys: dict[str, str],
    period: Period,
    stripe: StripeSide,
) -> None:
    """Add the movements of bookings in the period whose money moved long before it."""
    known = set(keys.values())
    disputes = {row.source for row in stripe.movements.values() if _is_dispute(row.source)}
    for stripe_id in disputes:
        _add(_movements_of(stripe_id or "", stripe), movements, keys, stripe)
    for row in bookings:
        is_dispute = row.stripe_id.startswith(DISPUTE_PREFIXES)
        if row.created_at not in period or not row.stripe_id:
            continue
        if row.stripe_id in known and not is_dispute:
            continue
        _add(_movements_of(row.stripe_id, stripe), movements, keys, stripe)


def _add(
    transaction_ids: Iterable[str | None],
    movements: dict[str, BalanceTransaction],
    keys: dict[str, str],
    stripe: StripeSide,
) -> None:
    for transaction_id in transaction_ids:
        found = stripe.find_movement(transaction_id)
        if found is not None and found.id not in movements:
            movements[found.id] = found
            keys[found.id] = _key_of(found, stripe)


def _is_dispute(source: str | None) -> bool:
    return bool(source) and str(source).startswith(DISPUTE_PREFIXES)


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
    if prefix == "tr":
        transfer = stripe.find_transfer(stripe_id)
        return [transfer.balance_transaction_id] if transfer else []
    if prefix == "in":
        charge = stripe.find_charge_of_invoice(stripe_id)
        return [charge.balance_transaction_id] if charge else []
    if prefix == "txn":
        return [stripe_id]
    return []


def _explain(
    finding: Finding,
    period: Period,
    movements: Mapping[str, BalanceTransaction],
    stripe: StripeSide,
    explanations: Mapping[str, Finding],
    booked: frozenset[str],
) -> Finding:
    source = finding.key.partition(" ")[0]
    row = movements.get(finding.stripe_id)
    if row is not None and row.type in BANK_TYPES:
        return finding.explained(Explanation.BANK, "The platform's own money.")
    known = explanations.get(source)
    # Of what goes back and forth, the sum can be nothing on either side.
    is_sum = finding.fault is Fault.MISSING_AT_STRIPE and _is_dispute(source)
    if known is not None and (is_sum or finding.fault in (Fault.MISSING_HERE, Fault.AMOUNT)):
        return finding.explained(known.explanation, known.note)
    if finding.fault is Fault.MISSING_HERE:
        if period.is_young(finding.happened_at):
            return finding.explained(Explanation.IN_FLIGHT)
        if finding.kind is Kind.FEE and _is_fee_to_book(source, row, booked):
            return finding.explained(Explanation.FEE, "It is booked by a repair, or at night.")
    if finding.fault is Fault.MISSING_AT_STRIPE and _is_pending(source, stripe):
        return finding.explained(
            Explanation.PENDING_AT_STRIPE, "Stripe has the object, and has not moved money yet."
        )
    return finding


def _is_fee_to_book(source: str, row: BalanceTransaction | None, booked: frozenset[str]) -> bool:
    """Whether it is a fee of ours that nobody has booked; one that was booked and is gone is not.

    Stripe's own, or of a payment that is booked.
    """
    if row is None or row.type in OWN_FEE_TYPES:
        return True
    if row.type not in CHARGE_TYPES or source not in booked:
        return False
    return not Topup.objects.filter(payment_intent_id=source, fee_cents__isnull=False).exists()


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
