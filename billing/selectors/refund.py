"""Read how much of a wallet was bought and is unspent, and which payments it goes back to."""

from __future__ import annotations

from django.db import connection
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Sum
from django.db.models.functions import Coalesce

from billing.models import Dispute, LedgerAccount, Topup, TopupRefund, Transfer
from billing.selectors.ledger import find_ledger_account
from marketplace.core.money import NANOS_PER_CENT
from marketplace.models import Account

# Credit that we gave and nobody paid for: it never leaves as money.
GIVEN_KINDS = (Transfer.Kind.PROMO, Transfer.Kind.CREDIT, Transfer.Kind.ADJUSTMENT)


def list_refunds(account: Account) -> QuerySet[TopupRefund]:
    """An account's refunds, newest first."""
    return (
        TopupRefund.objects.filter(account=account).select_related("topup").order_by("-created_at")
    )


def list_refundable_topups(account: Account) -> QuerySet[Topup]:
    """Payments of which something can go back, newest first, each with `returned_cents`.

    `returned_cents` is the credit of it that went back or is on its way. What a bank has
    taken back, or is about to, goes back to nobody by us.
    """
    disputed = Dispute.objects.filter(topup=OuterRef("pk")).exclude(state=Dispute.State.WON)
    alive = ~Q(refunds__state=TopupRefund.State.FAILED)
    return (
        Topup.objects.filter(account=account, state=Topup.State.CREDITED)
        .filter(~Exists(disputed))
        .annotate(returned_cents=Coalesce(Sum("refunds__net_cents", filter=alive), 0))
        .filter(amount_cents__gt=F("returned_cents"))
        .order_by("-credited_at", "-id")
    )


def sum_refundable_cents(account: Account) -> int:
    """How much can be paid back now, in whole cents, without the tax that goes with it."""
    paid_cents = sum(
        topup.amount_cents - topup.returned_cents  # type: ignore[attr-defined]
        for topup in list_refundable_topups(account)
    )
    return min(paid_cents, find_bought_nanos(account) // NANOS_PER_CENT)


def find_bought_nanos(account: Account) -> int:
    """What is unspent of the wallet and was bought. Credit that we gave counts as spent first.

    What is reserved for running predictions is not unspent.
    """
    wallet = find_ledger_account(LedgerAccount.Kind.WALLET, holder_id=account.pk)
    if wallet is None:
        return 0
    return max(0, wallet.available_nanos - _find_given_nanos(wallet))


def _find_given_nanos(wallet: LedgerAccount) -> int:
    """How much of given credit is left: added where it was given, first to go when spent.

    What was paid back was bought, and uses up none of it: or the same request once more would
    pay back what was given.

    Never below zero on the way, or credit that was bought and spent before would be counted
    against what was given after. Most wallets were never given any, and are not read.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """WITH given AS (
                   SELECT e.id, e.amount_nanos FROM billing_transfer t
                   JOIN billing_transferentry e ON e.transfer_id = t.id
                   WHERE t.kind = ANY(%s) AND e.ledger_account_id = %s AND e.amount_nanos > 0
               ), paid_back AS (
                   SELECT e.id FROM billing_transfer t
                   JOIN billing_transferentry e ON e.transfer_id = t.id
                   WHERE t.kind = %s AND e.ledger_account_id = %s
               ), walk AS (
                   SELECT e.id, sum(CASE WHEN g.id IS NOT NULL
                               OR (e.amount_nanos < 0 AND b.id IS NULL)
                           THEN e.amount_nanos ELSE 0 END) OVER (ORDER BY e.id) AS nanos
                   FROM billing_transferentry e LEFT JOIN given g ON g.id = e.id
                   LEFT JOIN paid_back b ON b.id = e.id
                   WHERE e.ledger_account_id = %s AND e.id >= (SELECT min(id) FROM given)
               )
               SELECT (SELECT nanos FROM walk ORDER BY id DESC LIMIT 1)
                   - least(0, (SELECT min(nanos) FROM walk))""",
            [
                [kind.value for kind in GIVEN_KINDS],
                wallet.pk,
                Transfer.Kind.REFUND.value,
                wallet.pk,
                wallet.pk,
            ],
        )
        return int(cursor.fetchone()[0] or 0)
