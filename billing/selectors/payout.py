"""Read payouts: who can be paid, what stands in the way, and what became of each item."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.db.models import QuerySet, Sum

from billing.models import ConnectAccount, LedgerAccount, PayoutItem, PayoutReversal
from billing.selectors.ledger import find_ledger_account
from billing.selectors.payout_hold import has_payout_hold
from marketplace.core.errors import NotFoundError
from marketplace.core.money import NANOS_PER_CENT, format_nanos
from marketplace.models import Account
from marketplace.selectors.access import Actor, list_accounts, require_right

# As many as a page shows; the API pages through all.
PAYOUTS_PER_PAGE = 50
# Stripe takes amounts of eight digits; the rest stays payable until the next run.
AMOUNT_CENTS_MAX = 99_999_999


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a creator is not paid now: a stable code, and a sentence for the creator."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Balances:
    """What a creator has earned and where it is, in nanos; it adds up to all it ever earned."""

    reserve_nanos: int
    payable_nanos: int
    in_flight_nanos: int
    paid_nanos: int


def find_balances(creator: Account) -> Balances:
    """Where a creator's money is."""
    kinds = LedgerAccount.Kind
    posted = {
        row.kind: row.posted_nanos for row in LedgerAccount.objects.filter(holder_id=creator.pk)
    }
    return Balances(
        reserve_nanos=posted.get(kinds.CREATOR_RESERVE, 0),
        payable_nanos=posted.get(kinds.CREATOR_PAYABLE, 0),
        in_flight_nanos=posted.get(kinds.PAYOUT_IN_FLIGHT, 0),
        paid_nanos=_sum_paid(creator.pk),
    )


def list_payouts(creator: Account) -> QuerySet[PayoutItem]:
    """A creator's payouts with what was taken back, newest first."""
    items = PayoutItem.objects.filter(creator=creator).prefetch_related("reversals")
    return items.order_by("-created_at", "-id")


def access_payout(actor: Actor, payout_id: UUID) -> PayoutItem:
    """A payout of one of the actor's accounts."""
    item = (
        PayoutItem.objects.select_related("creator")
        .filter(pk=payout_id, creator__in=list_accounts(actor))
        .first()
    )
    if item is None:
        raise NotFoundError("No such payout.")
    require_right(actor, item.creator, "read")
    return item


def sum_reversed_cents(item: PayoutItem) -> int:
    """What was taken back of an item, or is being."""
    taken = item.reversals.exclude(state=PayoutReversal.State.REFUSED)
    return taken.aggregate(cents=Sum("amount_cents"))["cents"] or 0


def compute_amount_cents(payable_nanos: int) -> int:
    """What can be paid of a payable: whole cents, the rest stays."""
    return min(max(payable_nanos, 0) // NANOS_PER_CENT, AMOUNT_CENTS_MAX)


def find_obstacle(creator: Account) -> Obstacle | None:
    """What stands between a creator and its next payout; None if nothing does."""
    open_item = PayoutItem.objects.filter(creator=creator, state__in=PayoutItem.OPEN_STATES)
    if open_item.exists():
        return Obstacle("payout_open", "A payout is on its way; the next one comes after it.")
    obstacle = find_account_obstacle(
        creator, ConnectAccount.objects.filter(creator=creator).first()
    )
    if obstacle is not None:
        return obstacle
    payable = find_ledger_account(LedgerAccount.Kind.CREATOR_PAYABLE, holder_id=creator.pk)
    payable_nanos = payable.posted_nanos if payable else 0
    if payable_nanos < 0:
        detail = (
            f"{format_nanos(-payable_nanos)} was taken back after it was paid; new earnings "
            "make up for it first."
        )
        return Obstacle("payable_negative", detail)
    if payable_nanos < settings.PAYOUT_MINIMUM_CENTS * NANOS_PER_CENT:
        least = format_nanos(settings.PAYOUT_MINIMUM_CENTS * NANOS_PER_CENT)
        return Obstacle("below_minimum", f"A payout is {least} or more; the rest is kept for you.")
    return None


def find_account_obstacle(creator: Account, connect: ConnectAccount | None) -> Obstacle | None:
    """What stands in the way whatever the amount: of the account, here and at Stripe."""
    if creator.suspended_at is not None:
        return Obstacle("account_suspended", "The account is suspended.")
    if has_payout_hold(creator):
        return Obstacle("payout_hold", "Payouts are held while a person looks at the account.")
    if connect is None or connect.connect_account_id is None:
        return Obstacle("onboarding_missing", "Tell Stripe who you are and where to pay.")
    if connect.requirements:
        return Obstacle("requirements_due", "Stripe asks for more before it pays you.")
    if connect.transfers_status != ConnectAccount.Transfers.ACTIVE:
        detail = f"Stripe does not take transfers to you: {connect.get_transfers_status_display()}."
        return Obstacle("transfers_inactive", detail)
    return None


def _sum_paid(creator_id: UUID) -> int:
    """What was paid and not taken back."""
    paid = PayoutItem.objects.filter(creator_id=creator_id, state=PayoutItem.State.PAID)
    taken = PayoutReversal.objects.filter(
        item__creator_id=creator_id, state=PayoutReversal.State.DONE
    )
    paid_cents = paid.aggregate(cents=Sum("amount_cents"))["cents"] or 0
    taken_cents = taken.aggregate(cents=Sum("amount_cents"))["cents"] or 0
    return (paid_cents - taken_cents) * NANOS_PER_CENT
