"""Disputes: a cardholder's bank takes a payment back, and perhaps returns it.

Whatever Stripe tells, and in which order, ends in `settle_dispute`: it asks for the dispute as
it is now, works out what the ledger should show of it, and posts the difference. So the same
end is reached by every way.

While a dispute is open the account is frozen and what is left of its wallet, up to the
disputed amount, is held. Where the bank has the money, it came out of what is held, and the
rest is our loss until we win. The tax in it is owed to nobody then, and comes out of the tax.

A payment is of a top-up or of an invoice; of who pays later the wallet stands in as well.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import F, Sum
from django.db.models.functions import Now
from django.utils import timezone

from billing.errors import StripeUnavailableError
from billing.models import (
    Dispute,
    Invoice,
    LedgerAccount,
    ReviewSignal,
    Topup,
    TopupRefund,
    Transfer,
)
from billing.selectors.fraud import list_related
from billing.selectors.ledger import find_ledger_account
from billing.services import ledger
from billing.services.fraud import close_won_case, lift_freeze, raise_signal
from billing.services.invoice import mirror_invoice
from billing.services.stripe_client import get_stripe
from billing.services.topup import CURRENCY, find_paid_topup
from billing.stripe.client import Dispute as StripeDispute
from marketplace.core.errors import ConflictError, InsufficientCreditError, MarketplaceError
from marketplace.core.ids import new_id
from marketplace.core.money import NANOS_PER_CENT
from marketplace.models import Account
from marketplace.services import audit

logger = logging.getLogger(__name__)

WON_STATUSES = frozenset({"won", "warning_closed", "prevented"})
POLL_BATCH_SIZE = 50
# Disputes that nobody told us of are looked for among the latest ones.
LIST_WITHIN = timedelta(days=3)
SYSTEM_LABEL = "system:dispute"
State = Dispute.State
Kind = LedgerAccount.Kind


@dataclass(frozen=True, slots=True)
class Effect:
    """What the ledger shows of a dispute, by account, in nano-dollars; it sums to zero.

    The fee is apart: it is not given back with the rest.
    """

    wallet_nanos: int
    hold_nanos: int
    loss_nanos: int
    clearing_nanos: int
    tax_nanos: int = 0


@dataclass(frozen=True, slots=True)
class Payment:
    """What is disputed: the payment of a top-up or of an invoice; one of the two is there."""

    account_id: UUID
    topup: Topup | None
    invoice: Invoice | None

    @property
    def is_booked(self) -> bool:
        """Whether the ledger knows of it, and of its tax."""
        if self.topup is not None:
            return self.topup.state == Topup.State.CREDITED
        return self.invoice is not None and self.invoice.booked_at is not None


def effect_of(taken_nanos: int, withdrawn_nanos: int, tax_nanos: int = 0) -> Effect:
    """What it should show.

    Args:
        taken_nanos: What left the wallet for it.
        withdrawn_nanos: What the bank has.
        tax_nanos: What of that was tax.
    """
    net_nanos = withdrawn_nanos - tax_nanos
    return Effect(
        wallet_nanos=-taken_nanos,
        hold_nanos=max(0, taken_nanos - net_nanos),
        loss_nanos=-max(0, net_nanos - taken_nanos),
        clearing_nanos=withdrawn_nanos,
        tax_nanos=-tax_nanos,
    )


def tax_of(withdrawn_cents: int, *, gross_cents: int, tax_cents: int) -> int:
    """The tax in a part of a payment that a bank takes: in proportion, rounded up.

    What refunds give back of a payment's tax is rounded down. So both together are exactly the
    tax, once all of the payment is gone, whichever came first.
    """
    if gross_cents <= 0:
        return 0
    left_cents = max(0, gross_cents - withdrawn_cents)
    return tax_cents - tax_cents * left_cents // gross_cents


def settle_dispute(dispute_id: str) -> bool:
    """Book a dispute as it stands at Stripe now; whether it is about one of our payments.

    Raises:
        ConflictError: The payment is not booked yet, or set aside; try again later.
        StripeUnavailableError, StripeRefusedError: It cannot be asked now.
    """
    known = get_stripe().retrieve_dispute(dispute_id)
    payment = _find_payment(known)
    if payment is None:
        return False
    if not payment.is_booked or known.currency != CURRENCY:
        raise ConflictError(f"The payment of dispute {dispute_id} is not booked.")
    of = {"topup": str(payment.topup.pk)} if payment.topup else {"invoice": str(payment.invoice)}
    raise_signal(
        payment.account_id,
        ReviewSignal.Kind.DISPUTE,
        f"dispute:{dispute_id}",
        {"reason": known.reason or "", "amount_cents": known.amount, **of},
        freezes=True,
        holds=list_related(payment.account_id),
    )
    with transaction.atomic():
        Account.objects.select_for_update(no_key=True).get(pk=payment.account_id)
        row = _lock_row(known, payment)
        _book(row, known)
    if row.state == State.WON:
        lift_freeze(f"dispute:{dispute_id}")
        _close_won_case(row)
    return True


def poll_disputes() -> int:
    """Look at every open dispute, and for new ones that no webhook told of; returns how many."""
    waiting = Dispute.objects.filter(state=State.OPEN).order_by(
        F("checked_at").asc(nulls_first=True)
    )
    dispute_ids = list(waiting.values_list("dispute_id", flat=True)[:POLL_BATCH_SIZE])
    # Stripe counts whole seconds, and its clock may be ahead of ours.
    until = timezone.now() + timedelta(minutes=5)
    looked_at = 0
    try:
        listed = get_stripe().list_disputes(created_from=until - LIST_WITHIN, created_until=until)
        known = set(
            Dispute.objects.filter(dispute_id__in=[one.id for one in listed]).values_list(
                "dispute_id", flat=True
            )
        )
        dispute_ids += [one.id for one in listed if one.id not in known]
        for dispute_id in dispute_ids:
            Dispute.objects.filter(dispute_id=dispute_id).update(checked_at=Now())
            looked_at += 1
            try:
                settle_dispute(dispute_id)
            except StripeUnavailableError:
                raise
            except MarketplaceError as error:
                logger.warning("dispute %s cannot be settled: %s", dispute_id, error.detail)
    except StripeUnavailableError:
        logger.warning("Stripe does not answer; the poll goes on next time")
    return looked_at


def _find_payment(known: StripeDispute) -> Payment | None:
    """What is disputed, booked first if that was not done yet; None if it is none of ours."""
    if known.payment_intent_id is None:
        return None
    topup = find_paid_topup(known.payment_intent_id)
    if topup is not None:
        return Payment(topup.account_id, topup, None)
    invoice_id = get_stripe().find_invoice_of_payment(known.payment_intent_id)
    invoice = mirror_invoice(invoice_id) if invoice_id else None
    return Payment(invoice.account_id, None, invoice) if invoice else None


def _lock_row(known: StripeDispute, payment: Payment) -> Dispute:
    Dispute.objects.get_or_create(
        dispute_id=known.id,
        defaults={
            "account_id": payment.account_id,
            "topup": payment.topup,
            "invoice": payment.invoice,
            "payment_intent_id": known.payment_intent_id or "",
            "amount_cents": known.amount,
            "status": known.status,
            "reason": known.reason or "",
            "created_at": known.created_at,
        },
    )
    return Dispute.objects.select_for_update(of=("self",)).get(dispute_id=known.id)


def _book(row: Dispute, known: StripeDispute) -> None:
    """Bring the ledger from what the row says is booked to what it should be."""
    accounts = _accounts_of(row)
    ledger.lock_accounts([*accounts, ledger.get_ledger_account_id(Kind.STRIPE_FEE)])
    before = effect_of(
        row.taken_nanos, row.withdrawn_cents * NANOS_PER_CENT, row.tax_cents * NANOS_PER_CENT
    )
    state = _state_of(known)
    tax_cents = _tax_of_row(row, known.withdrawn_cents)
    limit_nanos = _limit_cents(state, row, known.withdrawn_cents) * NANOS_PER_CENT
    taken_nanos = min(row.taken_nanos, limit_nanos)
    if state == State.OPEN or row.state != state:
        # Once more while it is open: what was reserved at first may be free now.
        taken_nanos += _find_free_nanos(row, limit_nanos - taken_nanos)
    withdrawn = (known.withdrawn_cents * NANOS_PER_CENT, tax_cents * NANOS_PER_CENT)
    taken_nanos = _post(row, before, taken_nanos, withdrawn, state)
    _book_fee(row, known.fee_cents)
    if row.state != state:
        audit.record(
            SYSTEM_LABEL,
            f"dispute.{state}",
            row,
            account_id=row.account_id,
            payload={"amount_cents": row.amount_cents},
        )
    row.state, row.status = state, known.status
    row.taken_nanos, row.withdrawn_cents = taken_nanos, known.withdrawn_cents
    row.tax_cents = tax_cents
    row.save()


def _state_of(known: StripeDispute) -> State:
    if known.status in WON_STATUSES:
        return State.WON
    return State.LOST if known.status == "lost" else State.OPEN


def _limit_cents(state: State, row: Dispute, withdrawn_cents: int) -> int:
    """How much may be out of the wallet for it: all that is disputed, until it is decided.

    Without its tax, which was never in the wallet.
    """
    disputed_cents = row.amount_cents
    if state == State.WON:
        return 0
    if state == State.LOST and withdrawn_cents:
        disputed_cents = min(disputed_cents, withdrawn_cents)
    return disputed_cents - _tax_of_row(row, disputed_cents)


def _tax_of_row(row: Dispute, withdrawn_cents: int) -> int:
    """What of such a part of its payment was tax, and did not go back by a refund."""
    if row.topup is None:
        assert row.invoice is not None, "one of the two"
        gross_cents, tax_cents = row.invoice.paid_cents, row.invoice.tax_cents
        return tax_of(withdrawn_cents, gross_cents=gross_cents, tax_cents=tax_cents)
    alive = row.topup.refunds.exclude(state=TopupRefund.State.FAILED)
    returned_cents = alive.aggregate(cents=Sum("tax_cents"))["cents"] or 0
    gross_cents, tax_cents = row.topup.gross_cents, row.topup.tax_cents
    part_cents = tax_of(withdrawn_cents, gross_cents=gross_cents, tax_cents=tax_cents)
    return min(part_cents, tax_cents - returned_cents)


def _find_free_nanos(row: Dispute, wanted_nanos: int) -> int:
    wallet = find_ledger_account(Kind.WALLET, holder_id=row.account_id)
    return max(0, min(wanted_nanos, wallet.available_nanos)) if wallet else 0


def _post(
    row: Dispute, before: Effect, taken_nanos: int, withdrawn: tuple[int, int], state: State
) -> int:
    """Post the difference; returns what is out of the wallet then.

    What the bank has, and what of it is tax, are fixed. A prediction that was quicker than we
    leaves less in the wallet: the next look takes it.
    """
    try:
        with transaction.atomic():
            _post_difference(row, before, effect_of(taken_nanos, *withdrawn), state)
            return taken_nanos
    except InsufficientCreditError:
        taken_nanos = min(taken_nanos, row.taken_nanos)
        _post_difference(row, before, effect_of(taken_nanos, *withdrawn), state)
        return taken_nanos


def _accounts_of(row: Dispute) -> dict[UUID, str]:
    """The ledger accounts of a dispute, each with its field of an `Effect`."""
    return {
        ledger.get_ledger_account_id(kind, holder_id=holder_id): name
        for kind, holder_id, name in (
            (Kind.WALLET, row.account_id, "wallet_nanos"),
            (Kind.DISPUTE_HOLD, row.account_id, "hold_nanos"),
            (Kind.DISPUTE_LOSS, None, "loss_nanos"),
            (Kind.STRIPE_CLEARING, None, "clearing_nanos"),
            (Kind.TAX_PAYABLE, None, "tax_nanos"),
        )
    }


def _post_difference(row: Dispute, before: Effect, after: Effect, state: State) -> None:
    moved = {
        account_id: getattr(after, name) - getattr(before, name)
        for account_id, name in _accounts_of(row).items()
    }
    amounts = {account_id: nanos for account_id, nanos in moved.items() if nanos}
    if not amounts:
        return
    ledger.post_transfer(
        transfer_id=new_id(),
        kind={
            State.OPEN: Transfer.Kind.DISPUTE,
            State.WON: Transfer.Kind.DISPUTE_WON,
            State.LOST: Transfer.Kind.DISPUTE_LOST,
        }[state],
        idempotency_key=f"dispute:{row.dispute_id}:{row.transfers + 1}",
        amounts_nanos=amounts,
        reference=row.dispute_id,
    )
    row.transfers += 1


def _book_fee(row: Dispute, fee_cents: int) -> None:
    """Stripe's fee for the trouble; some of it may come back with a dispute that is won."""
    difference_nanos = (fee_cents - row.fee_cents) * NANOS_PER_CENT
    if difference_nanos == 0:
        return
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.FEE,
        idempotency_key=f"dispute_fee:{row.dispute_id}:{row.transfers + 1}",
        amounts_nanos={
            ledger.get_ledger_account_id(Kind.STRIPE_FEE): -difference_nanos,
            ledger.get_ledger_account_id(Kind.STRIPE_CLEARING): difference_nanos,
        },
        reference=row.dispute_id,
    )
    row.transfers += 1
    row.fee_cents = fee_cents


def _close_won_case(row: Dispute) -> None:
    signal = ReviewSignal.objects.select_related("case").get(key=f"dispute:{row.dispute_id}")
    close_won_case(signal.case)
