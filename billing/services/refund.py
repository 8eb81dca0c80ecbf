"""Pay back credit that was bought and is unspent, to the cards that paid for it.

The credit leaves the wallet before Stripe is asked, so that it cannot be spent meanwhile.
What Stripe or a bank refuses comes back. The answer, the webhook and a periodic poll all end
in `settle_refund`, which asks Stripe for the present state and believes nothing else.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Sum
from django.utils import timezone

from billing.errors import (
    NothingToRefundError,
    RefundTooLargeError,
    StripeRefusedError,
    StripeUnavailableError,
)
from billing.models import LedgerAccount, StripeCall, Topup, TopupRefund, Transfer
from billing.selectors.refund import (
    annotate_returned,
    find_bought_nanos,
    list_refundable_topups,
)
from billing.services import ledger
from billing.services.poll import look_after
from billing.services.stripe_call import call_stripe, note_found
from billing.services.stripe_client import get_stripe
from billing.stripe.client import Refund
from marketplace.core.errors import (
    AccountFrozenError,
    InsufficientCreditError,
    InvalidInputError,
    LimitExceededError,
)
from marketplace.core.ids import new_id
from marketplace.core.money import NANOS_PER_CENT, format_cents
from marketplace.models import Account
from marketplace.selectors.access import Actor
from marketplace.services import audit

logger = logging.getLogger(__name__)

# Stripe keeps its fee on both ways: money that goes round in circles is a card being tried.
REQUESTS_PER_DAY_MAX = 10
POLL_AGE_MIN = timedelta(minutes=1)
POLL_BATCH_SIZE = 50
# What of a refund is credit, said at Stripe for the day on which our database forgets it.
NET_KEY = "net_cents"
RESTORED_LABEL = "system:reconcile"
FAILED_STATES = frozenset({"failed", "canceled"})
State = TopupRefund.State
Kind = LedgerAccount.Kind


@dataclass(frozen=True, slots=True)
class Part:
    """What one payment gives back: credit, and the tax that was paid on it."""

    topup: Topup
    net_cents: int
    tax_cents: int


def request_refund(
    actor: Actor,
    account: Account,
    *,
    amount_cents: int | None = None,
    request_id: UUID | None = None,
    reason: str = "",
) -> list[TopupRefund]:
    """Pay back unspent credit, for a person of the account.

    Args:
        actor: Who asks.
        account: Whose wallet.
        amount_cents: How much credit; None is all that can be paid back.
        request_id: The same for a repeat of the same wish, which then changes nothing.
        reason: For the record.

    Returns:
        One refund per payment that it goes back to, newest payment first.

    Raises:
        AccountFrozenError: Not before the account's payments are clear.
        InvalidInputError: No positive amount.
        LimitExceededError: Too many requests in a day.
        NothingToRefundError: Nothing that was bought is unspent.
        RefundTooLargeError: More than that.
        StripeUnavailableError: Try again later; nothing has moved.
    """
    account.refresh_from_db(fields=["frozen_at"])
    if account.frozen_at is not None:
        raise AccountFrozenError
    if amount_cents is not None and amount_cents <= 0:
        raise InvalidInputError(
            errors=[{"pointer": "/amount_cents", "detail": "A refund is one cent or more."}]
        )
    return refund_unspent(
        account,
        request_key=f"request:{request_id or new_id()}",
        label=actor.label,
        amount_cents=amount_cents,
        reason=reason,
        is_limited=True,
    )


def refund_unspent(
    account: Account,
    *,
    request_key: str,
    label: str,
    amount_cents: int | None = None,
    reason: str = "",
    topup: Topup | None = None,
    is_limited: bool = False,
) -> list[TopupRefund]:
    """Pay back credit that was bought and is unspent; once per request key.

    Args:
        account: Whose wallet.
        request_key: What asks for it; a repeat finds what was made.
        label: Who, for the audit log.
        amount_cents: How much credit; None is all.
        reason: For the record.
        topup: To this payment only.
        is_limited: Whether this counts against what an account may ask for in a day.

    Raises:
        NothingToRefundError, RefundTooLargeError, StripeUnavailableError: Nothing has moved.
        LimitExceededError: Too many requests in a day.
    """
    rests_cents = _ask_rests(account, request_key, amount_cents, topup)
    with transaction.atomic():
        # Requests of an account take turns; the wallet's own floor stops everybody else.
        Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        rows = list(TopupRefund.objects.filter(account=account, request_key=request_key))
        if not rows:
            if is_limited:
                _check_rate(account)
            parts = _plan(account, rests_cents, amount_cents)
            _lock_accounts(account.pk)
            rows = [_book(part, request_key, label, reason) for part in parts]
            audit.record(
                label,
                "refund.request",
                rows[0],
                account_id=account.pk,
                payload={
                    "net_cents": sum(row.net_cents for row in rows),
                    "tax_cents": sum(row.tax_cents for row in rows),
                    "reason": reason,
                },
            )
    for row in rows:
        # What is not answered now is sent again by the poll.
        with suppress(StripeUnavailableError):
            send_refund(row.pk)
        row.refresh_from_db()
    return rows


def send_refund(refund_id: UUID) -> TopupRefund:
    """Ask Stripe for a refund that is booked, and note what it says. Safe to repeat.

    A call whose answer was lost is looked for by its metadata before it is made again.

    Raises:
        StripeUnavailableError: Try again later.
    """
    row = TopupRefund.objects.select_related("topup").get(pk=refund_id)
    if row.state == State.IN_FLIGHT and row.stripe_refund_id is None:
        try:
            found = _find_lost(row) or _create(row)
        except StripeRefusedError as error:
            return _give_back(row.pk, error.detail)
        note_found(f"refund:{row.pk}", found.id)
        TopupRefund.objects.filter(pk=row.pk, stripe_refund_id=None).update(
            stripe_refund_id=found.id
        )
    return settle_refund(refund_id)


def settle_refund(refund_id: UUID) -> TopupRefund:
    """Ask Stripe what became of a refund, and book that. Safe to repeat, in any order.

    One that succeeded can still fail, weeks later: then the credit comes back.
    """
    row = TopupRefund.objects.get(pk=refund_id)
    if row.stripe_refund_id is None or row.state == State.FAILED:
        return row
    known = get_stripe().retrieve_refund(row.stripe_refund_id)
    with transaction.atomic():
        row = TopupRefund.objects.select_for_update(of=("self",)).get(pk=refund_id)
        if not _is_ours(row, known):
            logger.error("refund %s does not fit what Stripe has; left alone", row.pk)
            row.note = f"Stripe says {known.amount} cents of {known.payment_intent_id}."
            row.save(update_fields=["note"])
            return row
        is_failed = known.status in FAILED_STATES
        # A failed one was on the balance too, and came back: both are booked, as there.
        was_paid = known.status == "succeeded" or (is_failed and known.balance_transaction_id)
        _lock_accounts(row.account_id)
        if was_paid and row.state == State.IN_FLIGHT:
            _book_sent(row)
        if is_failed and row.state != State.FAILED:
            _book_failed(row, f"The bank did not take it ({known.failure_reason or known.status}).")
    return row


def settle_stripe_refund(stripe_refund_id: str) -> bool:
    """Look after a refund that Stripe names; whether it is one of ours."""
    row = TopupRefund.objects.filter(stripe_refund_id=stripe_refund_id).first()
    if row is None:
        known = get_stripe().retrieve_refund(stripe_refund_id)
        row = _find_named(known)
        if row is None:
            return False
        # Told before its creation was answered.
        TopupRefund.objects.filter(pk=row.pk, stripe_refund_id=None).update(
            stripe_refund_id=known.id
        )
    settle_refund(row.pk)
    return True


def restore_refund(known: Refund) -> TopupRefund | None:
    """Write a refund again that our database has lost, and book it as far as Stripe has it.

    Its credit leaves the wallet now: what Stripe paid back cannot be spent here as well.

    Returns:
        The row; None if its payment is not one that is credited here, or its amount is none
        that this payment can have given back.

    Raises:
        InsufficientCreditError: The wallet has spent it meanwhile; nothing was written.
    """
    refund_id = UUID(known.metadata["refund_id"])
    topup = Topup.objects.filter(
        payment_intent_id=known.payment_intent_id, state=Topup.State.CREDITED
    ).first()
    if topup is None:
        return None
    with transaction.atomic():
        Account.objects.select_for_update(no_key=True).get(pk=topup.account_id)
        row = TopupRefund.objects.filter(pk=refund_id).first()
        if row is None:
            part = _find_part(topup, known)
            if part is None:
                return None
            row = TopupRefund.objects.create(
                pk=refund_id,
                account_id=topup.account_id,
                topup=topup,
                request_key=f"restored:{refund_id}",
                net_cents=part.net_cents,
                tax_cents=part.tax_cents,
                stripe_refund_id=known.id,
                requested_by=RESTORED_LABEL,
                reason="Written again from what Stripe has.",
            )
            _post_begin(row)
            audit.record(
                RESTORED_LABEL,
                "refund.restore",
                row,
                account_id=row.account_id,
                payload={"stripe_id": known.id, "gross_cents": row.gross_cents},
            )
    return settle_refund(row.pk)


def poll_refunds() -> int:
    """Send what was not answered, and settle what no webhook told of; returns how many."""
    waiting = TopupRefund.objects.filter(
        state=State.IN_FLIGHT, created_at__lt=timezone.now() - POLL_AGE_MIN
    )
    return look_after(
        waiting, lambda row: send_refund(row.pk), size_max=POLL_BATCH_SIZE, what="refund"
    )


def _ask_rests(
    account: Account, request_key: str, amount_cents: int | None, topup: Topup | None
) -> dict[UUID, int]:
    """What each payment can give back in credit as Stripe knows it, by top-up, newest first.

    Stripe may know more than we: somebody may have paid back by hand there.
    """
    if TopupRefund.objects.filter(account=account, request_key=request_key).exists():
        return {}
    wanted = find_bought_nanos(account) // NANOS_PER_CENT
    if amount_cents is not None:
        wanted = min(wanted, amount_cents)
    rests: dict[UUID, int] = {}
    for one in list_refundable_topups(account):
        if wanted <= sum(rests.values()):
            break
        if topup is None or one.pk == topup.pk:
            rests[one.pk] = _ask_rest(one)
    return rests


def _ask_rest(topup: Topup) -> int:
    assert topup.payment_intent_id is not None, "it is credited"
    intent = get_stripe().retrieve_payment_intent(topup.payment_intent_id)
    if intent.latest_charge_id is None:
        return 0
    charge = get_stripe().retrieve_charge(intent.latest_charge_id)
    if charge.is_disputed:
        return 0
    gross_cents = charge.amount - charge.amount_refunded
    # Credit in proportion, rounded down: the tax on it has room, too.
    return max(0, gross_cents * topup.amount_cents // topup.gross_cents)


def _check_rate(account: Account) -> None:
    since = timezone.now() - timedelta(days=1)
    recent = TopupRefund.objects.filter(
        account=account, created_at__gt=since, request_key__startswith="request:"
    )
    if recent.values("request_key").distinct().count() >= REQUESTS_PER_DAY_MAX:
        raise LimitExceededError(
            f"An account asks for at most {REQUESTS_PER_DAY_MAX} refunds a day.",
            retry_after_s=3_600,
        )


def _plan(account: Account, rests_cents: dict[UUID, int], amount_cents: int | None) -> list[Part]:
    """Divide what is asked for among payments, newest first. Under the account's lock."""
    bought_cents = find_bought_nanos(account) // NANOS_PER_CENT
    candidates: Sequence[Any] = [
        one for one in list_refundable_topups(account) if rests_cents.get(one.pk, 0) > 0
    ]
    rests = [min(one.amount_cents - one.returned_cents, rests_cents[one.pk]) for one in candidates]
    refundable_cents = min(bought_cents, sum(rests))
    if refundable_cents <= 0:
        raise NothingToRefundError
    if amount_cents is not None and amount_cents > refundable_cents:
        raise RefundTooLargeError(
            f"At most ${format_cents(refundable_cents)} can be paid back.",
            refundable_cents=refundable_cents,
        )
    left = refundable_cents if amount_cents is None else amount_cents
    parts = []
    for topup, rest in zip(candidates, rests, strict=True):
        net_cents = min(left, rest)
        if net_cents > 0:
            parts.append(Part(topup, net_cents, _tax_of(topup, net_cents)))
            left -= net_cents
    return parts


def _tax_of(topup: Any, net_cents: int) -> int:
    """The tax on this much more of a payment; over all its refunds exactly what was paid.

    Less what really went back of it: one that failed in between may have rounded a cent.
    """
    after = topup.tax_cents * (topup.returned_cents + net_cents) // topup.amount_cents
    return max(0, int(after - topup.returned_tax_cents))


def _find_part(topup: Topup, known: Refund) -> Part | None:
    """Credit and tax of a refund that is known by its sum alone; None if it can be none."""
    alive = topup.refunds.exclude(state=State.FAILED).aggregate(
        net=Sum("net_cents"), tax=Sum("tax_cents")
    )
    net_rest = topup.amount_cents - (alive["net"] or 0)
    tax_rest = topup.tax_cents - (alive["tax"] or 0)
    named = known.metadata.get(NET_KEY, "")
    if named.isdecimal():
        net_cents = int(named)
    else:
        # Refunds of earlier do not say it: their tax was what this credit came to.
        (one,) = annotate_returned(Topup.objects.filter(pk=topup.pk))
        net_cents = bisect_left(
            range(known.amount + 1), known.amount, key=lambda net: net + _tax_of(one, net)
        )
        if net_cents + _tax_of(one, net_cents) != known.amount:
            return None
    tax_cents = known.amount - net_cents
    is_possible = 0 < net_cents <= net_rest and 0 <= tax_cents <= tax_rest
    return Part(topup, net_cents, tax_cents) if is_possible else None


def _book(part: Part, request_key: str, label: str, reason: str) -> TopupRefund:
    row = TopupRefund.objects.create(
        account_id=part.topup.account_id,
        topup=part.topup,
        request_key=request_key,
        net_cents=part.net_cents,
        tax_cents=part.tax_cents,
        requested_by=label,
        reason=reason,
    )
    try:
        _post_begin(row)
    except InsufficientCreditError:
        # A prediction was quicker than this request.
        raise NothingToRefundError("The credit was spent or reserved meanwhile.") from None
    return row


def _lock_accounts(account_id: UUID) -> None:
    """All that the transfers of refunds move: several may be posted at once."""
    platforms = (Kind.TAX_PAYABLE, Kind.REFUND_IN_FLIGHT, Kind.STRIPE_CLEARING)
    wallet_id = ledger.get_ledger_account_id(Kind.WALLET, holder_id=account_id)
    ledger.lock_accounts([wallet_id, *map(ledger.get_ledger_account_id, platforms)])


def _post_begin(row: TopupRefund) -> None:
    _post(row, Transfer.Kind.REFUND, f"refund:{row.pk}", Kind.REFUND_IN_FLIGHT, is_back=False)


def _book_sent(row: TopupRefund) -> None:
    amount_nanos = row.gross_cents * NANOS_PER_CENT
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.REFUND_SENT,
        idempotency_key=f"refund_sent:{row.pk}",
        amounts_nanos={
            ledger.get_ledger_account_id(Kind.REFUND_IN_FLIGHT): -amount_nanos,
            ledger.get_ledger_account_id(Kind.STRIPE_CLEARING): amount_nanos,
        },
        reference=row.stripe_refund_id or "",
    )
    row.state, row.settled_at = State.SUCCEEDED, timezone.now()
    row.save(update_fields=["state", "settled_at"])


def _book_failed(row: TopupRefund, note: str) -> None:
    """Give the credit back, from wherever the money is."""
    source = Kind.STRIPE_CLEARING if row.state == State.SUCCEEDED else Kind.REFUND_IN_FLIGHT
    _post(row, Transfer.Kind.REFUND_FAILED, f"refund_failed:{row.pk}", source, is_back=True)
    row.state, row.note, row.settled_at = State.FAILED, note, timezone.now()
    row.save(update_fields=["state", "note", "settled_at"])
    audit.record(
        "system:refund",
        "refund.fail",
        row,
        account_id=row.account_id,
        payload={"net_cents": row.net_cents, "tax_cents": row.tax_cents},
    )


def _give_back(refund_id: UUID, note: str) -> TopupRefund:
    """Stripe refused to begin: the credit is the account's again."""
    with transaction.atomic():
        row = TopupRefund.objects.select_for_update(of=("self",)).get(pk=refund_id)
        if row.state == State.IN_FLIGHT and row.stripe_refund_id is None:
            _book_failed(row, note)
    return row


def _post(
    row: TopupRefund, kind: Transfer.Kind, key: str, other: LedgerAccount.Kind, *, is_back: bool
) -> None:
    """Move credit and its tax to another account, or back."""
    sign = 1 if is_back else -1
    wallet_id = ledger.get_ledger_account_id(Kind.WALLET, holder_id=row.account_id)
    amounts = {wallet_id: sign * row.net_cents * NANOS_PER_CENT}
    if row.tax_cents:
        tax_id = ledger.get_ledger_account_id(Kind.TAX_PAYABLE)
        amounts[tax_id] = sign * row.tax_cents * NANOS_PER_CENT
    amounts[ledger.get_ledger_account_id(other)] = -sign * row.gross_cents * NANOS_PER_CENT
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=kind,
        idempotency_key=key,
        amounts_nanos=amounts,
        reference=str(row.pk),
    )


def _find_lost(row: TopupRefund) -> Refund | None:
    """What an earlier call made whose answer nobody got."""
    if not StripeCall.objects.filter(idempotency_key=f"refund:{row.pk}").exists():
        return None
    assert row.topup.payment_intent_id is not None, "it is credited"
    return get_stripe().find_refund(
        payment_intent_id=row.topup.payment_intent_id, key="refund_id", value=str(row.pk)
    )


def _create(row: TopupRefund) -> Refund:
    payment_intent_id = row.topup.payment_intent_id
    assert payment_intent_id is not None, "it is credited"
    key = f"refund:{row.pk}"
    params = {"payment_intent_id": payment_intent_id, "amount_cents": row.gross_cents}
    return call_stripe(
        "refunds.create",
        key,
        params,
        lambda: get_stripe().create_refund(
            payment_intent_id=payment_intent_id,
            amount_cents=row.gross_cents,
            metadata={"refund_id": str(row.pk), NET_KEY: str(row.net_cents)},
            idempotency_key=key,
        ),
    )


def _find_named(known: Refund) -> TopupRefund | None:
    """The row that a refund at Stripe says it belongs to, if it does."""
    try:
        refund_id = UUID(known.metadata.get("refund_id", ""))
    except ValueError:
        return None
    row = TopupRefund.objects.select_related("topup").filter(pk=refund_id).first()
    return row if row is not None and _is_ours(row, known) else None


def _is_ours(row: TopupRefund, known: Refund) -> bool:
    facts = (known.payment_intent_id, known.amount)
    return facts == (row.topup.payment_intent_id, row.gross_cents)
