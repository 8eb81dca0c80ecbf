"""What deleting an account means for its money; see `marketplace.services.closing`.

Nothing of the ledger is changed by it but by transfers: credit is paid back or given up, earnings
are paid out, and what cannot leave stays owed in the books.
"""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from billing.errors import NothingToRefundError
from billing.models import (
    AutoTopup,
    BalanceAlert,
    ConnectAccount,
    Dispute,
    Hold,
    Invoice,
    LedgerAccount,
    PayoutItem,
    PayoutReversal,
    PostpaidTerms,
    SavedCard,
    TaxDetails,
    Topup,
    TopupRefund,
    Transfer,
    UsageEvent,
)
from billing.selectors.ledger import find_ledger_account
from billing.selectors.payout import find_account_obstacle, find_balances
from billing.selectors.payout_hold import has_payout_hold
from billing.selectors.refund import find_bought_nanos, sum_refundable_cents
from billing.services import ledger
from billing.services.card import remove_card
from billing.services.refund import refund_unspent
from billing.services.topup import close_pages
from marketplace.core.ids import lowest_id, new_id
from marketplace.core.money import NANOS_PER_CENT, format_nanos
from marketplace.models import Account, AccountDeletion
from marketplace.selectors.access import Actor
from marketplace.services import audit
from marketplace.services.closing import Closer, NotYet, Obstacle

SYSTEM_LABEL = "system:deletion"
REASON = "The account is deleted."
# Who used a model in this time counts as using it.
ACTIVE_WINDOW = timedelta(days=30)
Kind = LedgerAccount.Kind


def foretell(account: Account) -> list[str]:
    """Credit, earnings, and who uses the models."""
    told = _foretell_credit(account) + _foretell_earnings(account)
    since = lowest_id(timezone.now() - ACTIVE_WINDOW)
    events = UsageEvent.objects.filter(creator=account, prediction_id__gte=since)
    consumers = events.exclude(account=account).values("account_id").distinct().count()
    if consumers:
        told.append(
            f"{_count(consumers, 'consumer')} used your models in the last 30 days. They get an "
            "error once the models are withdrawn."
        )
    cards = SavedCard.objects.filter(account=account, removed_at=None).count()
    if cards:
        told.append(f"{_count(cards, 'saved card')} and the address on invoices are removed.")
    told.append(
        "Ledger, receipts, invoices and the audit log stay, as the law asks; the account stands in "
        "them under a pseudonym."
    )
    return told


def find_obstacles(account: Account) -> list[Obstacle]:
    """What is disputed, owed, or on its way."""
    wait = "Wait until it has arrived."
    console = f"?account={account.slug}"
    found = [
        (
            account.frozen_at is not None or has_payout_hold(account),
            *("payments_examined", "A payment of the account is being examined."),
            *("Wait for the result; the platform writes to you.", ""),
        ),
        (
            Dispute.objects.filter(account=account, state=Dispute.State.OPEN).exists(),
            *("dispute_open", "A payment is disputed at the bank."),
            *("Wait for the bank's decision, or withdraw the dispute there.", ""),
        ),
        (
            _has_postpaid(account),
            *("postpaid_open", "The account pays by invoice."),
            *("End that, and wait for the last invoice.", reverse("billing:invoices") + console),
        ),
        (
            _owes(account),
            *("invoice_unpaid", "An invoice is not paid yet."),
            *("Pay it.", reverse("billing:invoices") + console),
        ),
        (
            _has_payout_open(account),
            *("payout_open", "A payout is on its way."),
            *(wait, reverse("billing:payouts") + console),
        ),
        (
            TopupRefund.objects.filter(account=account, state=TopupRefund.State.IN_FLIGHT).exists(),
            *("refund_open", "A refund is on its way."),
            *(wait, reverse("billing:wallet") + console),
        ),
        (
            find_balances(account).payable_nanos < 0,
            *("payable_negative", "More was paid out than was earned in the end."),
            *("Earn it, or write to the platform.", reverse("billing:payouts") + console),
        ),
    ]
    return [Obstacle(*facts) for is_there, *facts in found if is_there]


def settle_credit(deletion: AccountDeletion) -> str:
    """Pay the credit back that was bought, if that was chosen; give up what is left."""
    account = deletion.account
    close_pages(account)
    wallet = find_ledger_account(Kind.WALLET, holder_id=account.pk)
    if wallet is None:
        return "There was no credit."
    if Hold.objects.filter(ledger_account=wallet, state=Hold.State.PENDING).exists():
        raise NotYet("Credit is still reserved for predictions.")
    if Topup.objects.filter(
        account=account, source=Topup.Source.AUTO, state=Topup.State.OPEN
    ).exists():
        raise NotYet("An automatic payment is on its way.")
    paid_cents = 0
    if deletion.credit == AccountDeletion.Credit.REFUND:
        paid_cents = _refund(deletion)
    nanos = _forfeit(deletion)
    return f"{_dollars(paid_cents)} paid back, {format_nanos(nanos)} given up."


def pay_earnings(deletion: AccountDeletion) -> str:
    """Wait until what was earned is paid out, as far as it can be."""
    account = deletion.account
    balances = find_balances(account)
    if balances.reserve_nanos != 0:
        raise NotYet("Earnings are in reserve for some more days.")
    if _has_payout_open(account) or balances.in_flight_nanos:
        raise NotYet("A payout is on its way.")
    connect = ConnectAccount.objects.filter(creator=account).first()
    is_enough = balances.payable_nanos >= settings.PAYOUT_MINIMUM_CENTS * NANOS_PER_CENT
    if is_enough and find_account_obstacle(account, connect) is None:
        raise NotYet("The next payout takes what was earned.")
    left = max(0, balances.payable_nanos)
    return f"{format_nanos(left)} could not be paid out, and stays owed."


def remove_payment_details(deletion: AccountDeletion) -> str:
    """Take the cards away, at Stripe too, and the addresses."""
    account = deletion.account
    AutoTopup.objects.filter(account=account).update(is_enabled=False, off_reason="")
    count = 0
    for card in SavedCard.objects.filter(account=account, removed_at=None):
        remove_card(Actor(), card)
        count += 1
    with transaction.atomic():
        # What a card was recognised by here; fraud is still found by its payments.
        SavedCard.objects.filter(account=account).update(brand="", last4="", fingerprint="")
        BalanceAlert.objects.filter(account=account).delete()
        TaxDetails.objects.filter(account=account).delete()
        ConnectAccount.objects.filter(creator=account).update(email="")
    return f"{_count(count, 'card')} removed."


def forfeit_key(deletion: AccountDeletion) -> str:
    """Of the transfer that takes given-up credit out of the wallet."""
    return f"deletion:{deletion.pk}"


def _foretell_credit(account: Account) -> list[str]:
    wallet = find_ledger_account(Kind.WALLET, holder_id=account.pk)
    if wallet is None or wallet.posted_nanos <= 0:
        return []
    back_cents = sum_refundable_cents(account)
    told = [f"The wallet holds {format_nanos(wallet.posted_nanos)}."]
    if back_cents:
        told.append(f"{_dollars(back_cents)} of it can be paid back to the cards that paid.")
    told.append("What is not paid back is given up; credit that was a gift never leaves as money.")
    return told


def _foretell_earnings(account: Account) -> list[str]:
    balances = find_balances(account)
    waiting = balances.reserve_nanos + max(0, balances.payable_nanos)
    if waiting <= 0:
        return []
    told = [f"{format_nanos(waiting)} that you earned is paid out first, which can take weeks."]
    connect = ConnectAccount.objects.filter(creator=account).first()
    obstacle = find_account_obstacle(account, connect)
    if obstacle is not None:
        told.append(f"It cannot be paid out now: {obstacle.detail}")
    least = _dollars(settings.PAYOUT_MINIMUM_CENTS)
    told.append(f"Less than {least} is not paid out; it stays owed to you in the books.")
    return told


def _has_postpaid(account: Account) -> bool:
    ended = (PostpaidTerms.State.REFUSED, PostpaidTerms.State.CLOSED)
    return PostpaidTerms.objects.filter(account=account).exclude(state__in=ended).exists()


def _owes(account: Account) -> bool:
    receivable = find_ledger_account(Kind.RECEIVABLE, holder_id=account.pk)
    if receivable is not None and receivable.owed_nanos > 0:
        return True
    open_states = (Invoice.State.DRAFT, Invoice.State.OPEN)
    return Invoice.objects.filter(account=account, state__in=open_states).exists()


def _has_payout_open(account: Account) -> bool:
    items = PayoutItem.objects.filter(creator=account)
    return (
        items.filter(state__in=PayoutItem.OPEN_STATES).exists()
        or PayoutReversal.objects.filter(
            item__creator=account, state=PayoutReversal.State.SENDING
        ).exists()
    )


def _refund(deletion: AccountDeletion) -> int:
    """Pay back what was bought; returns how much arrived, in cents of credit."""
    key = f"deletion:{deletion.pk}"
    rows = list(TopupRefund.objects.filter(account=deletion.account, request_key=key))
    if not rows:
        try:
            rows = refund_unspent(
                deletion.account, request_key=key, label=SYSTEM_LABEL, reason=REASON
            )
        except NothingToRefundError:
            return 0
    if any(row.state == TopupRefund.State.IN_FLIGHT for row in rows):
        raise NotYet("The refund is on its way.")
    return sum(row.net_cents for row in rows if row.state == TopupRefund.State.SUCCEEDED)


def _forfeit(deletion: AccountDeletion) -> int:
    """Take what is left out of the wallet; returns how much. What a bank refused stays owed."""
    account = deletion.account
    wallet = find_ledger_account(Kind.WALLET, holder_id=account.pk)
    assert wallet is not None, "of settle_credit"
    done = Transfer.objects.filter(idempotency_key=forfeit_key(deletion)).first()
    if done is not None:
        entry = done.entries.get(ledger_account=wallet)
        return -entry.amount_nanos
    nanos = wallet.available_nanos
    failed = TopupRefund.objects.filter(
        account=account, request_key=f"deletion:{deletion.pk}", state=TopupRefund.State.FAILED
    )
    if failed.exists():
        nanos -= find_bought_nanos(account)
    if nanos <= 0:
        return 0
    with transaction.atomic():
        revenue_id = ledger.get_ledger_account_id(Kind.PLATFORM_REVENUE)
        posted = ledger.post_transfer(
            transfer_id=new_id(),
            kind=Transfer.Kind.ADJUSTMENT,
            idempotency_key=forfeit_key(deletion),
            amounts_nanos={wallet.pk: -nanos, revenue_id: nanos},
            reference=str(deletion.pk),
        )
        if posted:
            payload = {"amount_nanos": nanos}
            audit.record(
                *(SYSTEM_LABEL, "wallet.forfeit", wallet),
                account_id=account.pk,
                payload=payload,
            )
    return nanos


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _dollars(cents: int) -> str:
    return format_nanos(cents * NANOS_PER_CENT)


CLOSER = Closer(
    name="billing",
    foretell=foretell,
    find_obstacles=find_obstacles,
    steps={
        "credit": settle_credit,
        "earnings": pay_earnings,
        "payment_details": remove_payment_details,
    },
)
