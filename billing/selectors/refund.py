"""Read how much of a wallet was bought and is unspent, and which payments it goes back to."""

from __future__ import annotations

from collections import Counter

from django.db import connection
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Sum
from django.db.models.functions import Coalesce

from billing.models import Dispute, LedgerAccount, Topup, TopupRefund, Transfer
from billing.selectors.ledger import find_ledger_account
from marketplace.core.money import NANOS_PER_CENT
from marketplace.models import Account

# Credit that we gave and nobody paid for: it never leaves as money.
GIVEN_KINDS = (Transfer.Kind.PROMO, Transfer.Kind.CREDIT, Transfer.Kind.ADJUSTMENT)
DISPUTE_KINDS = (Transfer.Kind.DISPUTE, Transfer.Kind.DISPUTE_WON, Transfer.Kind.DISPUTE_LOST)


def list_refunds(account: Account) -> QuerySet[TopupRefund]:
    """An account's refunds, newest first."""
    return (
        TopupRefund.objects.filter(account=account).select_related("topup").order_by("-created_at")
    )


def list_refundable_topups(account: Account) -> QuerySet[Topup]:
    """Payments of which something can go back, newest first, with what of each went back.

    `returned_cents` is the credit of it that went back or is on its way, `returned_tax_cents`
    its tax. What a bank has
    taken back, or is about to, goes back to nobody by us.
    """
    disputed = Dispute.objects.filter(topup=OuterRef("pk")).exclude(state=Dispute.State.WON)
    credited = Topup.objects.filter(account=account, state=Topup.State.CREDITED)
    return (
        annotate_returned(credited.filter(~Exists(disputed)))
        .filter(amount_cents__gt=F("returned_cents"))
        .order_by("-credited_at", "-id")
    )


def annotate_returned(topups: QuerySet[Topup]) -> QuerySet[Topup]:
    """The same, each with `returned_cents` and `returned_tax_cents`: see above."""
    alive = ~Q(refunds__state=TopupRefund.State.FAILED)
    return topups.annotate(
        returned_cents=Coalesce(Sum("refunds__net_cents", filter=alive), 0),
        returned_tax_cents=Coalesce(Sum("refunds__tax_cents", filter=alive), 0),
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
    pay back what was given. What comes back, of a charge or from a dispute that was won, is
    given credit again as far as it was when it went: nobody ever paid for it.
    """
    left_nanos = 0
    gone_nanos: Counter[str] = Counter()
    for nanos, is_given, source in _list_steps(wallet):
        if is_given:
            left_nanos += nanos
        elif nanos < 0:
            used_nanos = min(left_nanos, -nanos)
            left_nanos -= used_nanos
            gone_nanos[source] += used_nanos
        else:
            back_nanos = min(nanos, gone_nanos[source])
            left_nanos += back_nanos
            gone_nanos[source] -= back_nanos
    return left_nanos


def _list_steps(wallet: LedgerAccount) -> list[tuple[int, bool, str]]:
    """What matters of a wallet's entries: nano-dollars, whether they were given, and of what.

    From the first that was given on; most wallets were never given any. What is between two
    that can be undone is summed, so that a million charges are a few rows: only what has come
    back is told apart, by the transfer that it was charged with, and disputes by their id.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """WITH given AS (
                   SELECT min(e.id) AS id FROM billing_transfer t
                   JOIN billing_transferentry e ON e.transfer_id = t.id
                   WHERE t.kind = ANY(%(given)s) AND e.ledger_account_id = %(wallet)s
                       AND e.amount_nanos > 0
               ), undone AS (
                   SELECT u.transfer_id AS charge_id, r.transfer_id
                   FROM billing_usagereversal r
                   JOIN billing_usageevent u ON u.prediction_id = r.prediction_id
                   WHERE r.account_id = %(holder)s
               ), entry AS (
                   SELECT e.id, e.amount_nanos AS nanos,
                       t.kind = ANY(%(given)s) AND e.amount_nanos > 0 AS is_given,
                       CASE WHEN t.kind = ANY(%(disputes)s) THEN t.reference
                           WHEN t.kind = 'usage' THEN coalesce((SELECT t.id::text
                               WHERE t.id IN (SELECT charge_id FROM undone)), '')
                           WHEN t.kind = 'usage_reversal' THEN coalesce((
                               SELECT charge_id::text FROM undone
                               WHERE undone.transfer_id = t.id), '')
                           ELSE '' END AS source
                   FROM billing_transferentry e JOIN billing_transfer t ON t.id = e.transfer_id
                   WHERE e.ledger_account_id = %(wallet)s AND t.kind <> 'refund'
                       AND e.id >= (SELECT id FROM given)
               ), step AS (
                   SELECT *, count(*) FILTER (WHERE is_given OR source <> '')
                       OVER (ORDER BY id) AS number
                   FROM entry WHERE is_given OR source <> '' OR nanos < 0
               )
               SELECT sum(nanos)::bigint, is_given, source FROM step
               GROUP BY number, is_given, source ORDER BY min(id)""",
            {
                "given": [kind.value for kind in GIVEN_KINDS],
                "disputes": [kind.value for kind in DISPUTE_KINDS],
                "wallet": wallet.pk,
                "holder": wallet.holder_id,
            },
        )
        return list(cursor.fetchall())
