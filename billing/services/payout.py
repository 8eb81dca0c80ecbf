"""Pay creators: each item is paid once, whoever dies when.

    row and booking (payable -> on its way)     one transaction, before anything is sent
    the outbox row                              `call_stripe`, before the request
    POST a transfer, under the item's key       the same key on each try: Stripe does it once
    paid    (on its way -> Stripe)              or
    refused (on its way -> payable)

An item whose request was not answered stays `sending`. It is sent again under the same key
while Stripe surely remembers the key; later the transfer is looked for first, and only if
there is none does a request with another key go out. Between the two nothing is done, so that
a slow request of the one time cannot meet the other.
"""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now
from django.urls import reverse
from django.utils import timezone

from billing.errors import StripeRefusedError, StripeUnavailableError
from billing.models import (
    ConnectAccount,
    LedgerAccount,
    PayoutItem,
    PayoutReversal,
    PayoutRun,
    StripeCall,
    Transfer,
)
from billing.selectors.payout import (
    compute_amount_cents,
    find_account_obstacle,
    sum_reversed_cents,
)
from billing.services import ledger
from billing.services.connect import refresh_account
from billing.services.stripe_call import call_stripe
from billing.services.stripe_client import get_stripe
from billing.stripe.client import ConnectTransfer, TransferReversal
from marketplace.core.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    MarketplaceError,
)
from marketplace.core.ids import new_id
from marketplace.core.money import NANOS_PER_CENT, format_cents
from marketplace.models import Notification
from marketplace.selectors.access import Actor
from marketplace.services import audit
from marketplace.services.notification import notify
from marketplace.services.row_lock import hold_row

logger = logging.getLogger(__name__)

# One transaction writes them all. The largest come first; the others have the next run.
ITEMS_PER_RUN_MAX = 5_000
# Stripe forgets keys after a day at the earliest.
SAME_KEY_UNTIL = timedelta(hours=20)
SEARCH_FROM = timedelta(hours=21)
# A task has ten minutes, and Stripe takes three requests for an item.
ADVANCE_BATCH_SIZE = 200
# Stripe's word for a balance that does not suffice.
BALANCE_INSUFFICIENT = "balance_insufficient"
RESTORED_LABEL = "system:reconcile"
WAITS_FOR_BALANCE = "The platform's balance at Stripe does not suffice yet; nothing is lost."
# Any numbers that nothing else in this database locks.
_RUN_LOCK = 0x7061_7964_6179
_ITEM_LOCK_SPACE = 0x7061_796F

State = PayoutItem.State
Kind = LedgerAccount.Kind


# --- Runs -------------------------------------------------------------------------


def start_due_run(now: datetime | None = None) -> PayoutRun | None:
    """Begin the run of the latest payday, unless that was done; None if so."""
    today = (now or timezone.now()).astimezone(UTC).date()
    payday = today - timedelta(days=(today.weekday() - settings.PAYOUT_WEEKDAY) % 7)
    if PayoutRun.objects.filter(payday=payday).exists():
        return None
    return _create_run(payday=payday, actor=None)


def start_run(actor: Actor) -> PayoutRun:
    """Begin a run now, by an admin.

    Raises:
        ForbiddenError: The actor is no admin of the platform.
    """
    _require_admin(actor)
    run = _create_run(payday=None, actor=actor)
    assert run is not None, "only a payday can be taken"
    return run


def _require_admin(actor: Actor) -> None:
    if not actor.is_admin:
        raise ForbiddenError("Only an admin of the platform can do this.")


def _create_run(*, payday: date | None, actor: Actor | None) -> PayoutRun | None:
    """The run, its items and their bookings, all or nothing."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_RUN_LOCK])
        if payday is not None and PayoutRun.objects.filter(payday=payday).exists():
            return None
        run = PayoutRun.objects.create(payday=payday, started_by=actor.user if actor else None)
        for payable, connect in _list_candidates():
            _create_item(run, payable, connect)
        if actor is not None:
            audit.record(actor.label, "payout.start_run", run, payload={"items": run.items.count()})
    return run


def _list_candidates() -> list[tuple[LedgerAccount, ConnectAccount]]:
    """Whom this run pays, with their payables locked."""
    rich = (
        LedgerAccount.objects.filter(
            kind=Kind.CREATOR_PAYABLE,
            posted_nanos__gte=settings.PAYOUT_MINIMUM_CENTS * NANOS_PER_CENT,
            holder__connect_account__transfers_status=ConnectAccount.Transfers.ACTIVE,
            holder__suspended_at=None,
        )
        .exclude(holder__payouts__state__in=PayoutItem.OPEN_STATES)
        .order_by("-posted_nanos", "id")[:ITEMS_PER_RUN_MAX]
    )
    ids = [one.pk for one in rich]
    in_flight_ids = [_in_flight_of(one.holder_id) for one in rich if one.holder_id is not None]
    ledger.lock_accounts([*ids, *in_flight_ids])
    locked = list(LedgerAccount.objects.filter(pk__in=ids).order_by("id"))
    connects = {
        one.creator_id: one
        for one in ConnectAccount.objects.select_related("creator").filter(
            creator_id__in=[one.holder_id for one in locked]
        )
    }
    found = [(one, connects[one.holder_id]) for one in locked if one.holder_id is not None]
    return [
        (payable, connect)
        for payable, connect in found
        if find_account_obstacle(connect.creator, connect) is None
    ]


def _create_item(run: PayoutRun, payable: LedgerAccount, connect: ConnectAccount) -> None:
    if payable.posted_nanos < settings.PAYOUT_MINIMUM_CENTS * NANOS_PER_CENT:
        return  # Taken back while we waited for the lock.
    assert connect.connect_account_id is not None, "no obstacle"
    item = PayoutItem.objects.create(
        run=run,
        creator_id=connect.creator_id,
        amount_cents=compute_amount_cents(payable.posted_nanos),
        destination=connect.connect_account_id,
    )
    _post_begin(item)


def _post_begin(item: PayoutItem) -> None:
    holder_id = item.creator_id
    payable_id = ledger.get_ledger_account_id(Kind.CREATOR_PAYABLE, holder_id=holder_id)
    in_flight_id = _in_flight_of(holder_id)
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.PAYOUT,
        idempotency_key=f"payout:{item.pk}",
        amounts_nanos={payable_id: -item.amount_nanos, in_flight_id: item.amount_nanos},
        reference=str(item.pk),
    )


def _in_flight_of(creator_id: UUID) -> UUID:
    return ledger.get_ledger_account_id(Kind.PAYOUT_IN_FLIGHT, holder_id=creator_id)


# --- Items ------------------------------------------------------------------------


def advance_payouts() -> int:
    """Go on with every open item and every reversal; returns how many were looked at."""
    items = PayoutItem.objects.filter(state__in=PayoutItem.OPEN_STATES).order_by(
        F("checked_at").asc(nulls_first=True), "created_at"
    )
    reversals = PayoutReversal.objects.filter(state=PayoutReversal.State.SENDING)
    count = 0
    for pk, advance in [
        *((pk, advance_item) for pk in _some_ids(items)),
        *((pk, advance_reversal) for pk in _some_ids(reversals.order_by("created_at"))),
    ]:
        count += 1
        # Before the look, so that an item that always fails holds up nobody.
        PayoutItem.objects.filter(pk=pk, state__in=PayoutItem.OPEN_STATES).update(checked_at=Now())
        try:
            advance(pk)
        except StripeUnavailableError:
            logger.warning("Stripe does not answer; payouts go on next time")
            break
        except MarketplaceError as error:
            logger.warning("payout %s cannot go on: %s %s", pk, error.code, error.detail)
    return count


def _some_ids(rows: QuerySet[Any]) -> list[UUID]:
    return list(rows.values_list("pk", flat=True)[:ADVANCE_BATCH_SIZE])


def advance_item(item_id: UUID) -> PayoutItem:
    """Take an item as far as it goes now. Safe to repeat, and to run twice at once.

    Raises:
        StripeUnavailableError: Nobody knows whether it was paid; it is looked after again.
        ConflictError: The same, and Stripe may have forgotten the request.
    """
    with hold_row(_ITEM_LOCK_SPACE, item_id) as is_ours:
        item = PayoutItem.objects.select_related("creator").get(pk=item_id)
        if not is_ours or not item.is_open:
            return item
        if item.state == State.WAITING:
            if not _may_be_sent(item):
                return item
            _begin_attempt(item)
        _send(item)
    return item


def _may_be_sent(item: PayoutItem) -> bool:
    """Look once more, at Stripe itself: a lot can happen after the run began."""
    connect = ConnectAccount.objects.get(creator_id=item.creator_id)
    try:
        connect = refresh_account(connect)
    except StripeRefusedError as error:
        _refuse(item, error.detail)
        return False
    obstacle = find_account_obstacle(item.creator, connect)
    if obstacle is not None:
        _refuse(item, obstacle.detail)
        return False
    if get_stripe().retrieve_balance().available_cents < item.amount_cents:
        _wait(item, WAITS_FOR_BALANCE)
        return False
    return True


def _begin_attempt(item: PayoutItem) -> None:
    """Another key for the next request: what became of the one before is certain."""
    _change(item, state=State.SENDING, reason="", attempt=item.attempt + 1)


def _send(item: PayoutItem) -> None:
    """Send an item, or find out what became of an earlier try."""
    call = StripeCall.objects.filter(idempotency_key=_key_of(item)).first()
    if call is not None and not _may_repeat(call):
        found = _find_transfer(item)
        if found is not None:
            _book_paid(item, found)
            return
        _begin_attempt(item)
    try:
        sent = _post(item)
    except StripeRefusedError as error:
        if error.params.get("stripe_code") == BALANCE_INSUFFICIENT:
            _wait(item, WAITS_FOR_BALANCE)
        else:
            _refuse(item, error.detail)
        return
    _book_paid(item, sent)


def _may_repeat(call: StripeCall) -> bool:
    """Whether Stripe still knows the key; False: look for what it did.

    Raises:
        ConflictError: It may have forgotten, and may still be at it.
    """
    age = timezone.now() - call.first_sent_at
    if SAME_KEY_UNTIL <= age < SEARCH_FROM:
        raise ConflictError("A request was not answered, and is looked for a little later.")
    return age < SAME_KEY_UNTIL


def _post(item: PayoutItem) -> ConnectTransfer:
    key = _key_of(item)
    metadata = {"payout": str(item.pk), "creator": str(item.creator_id)}
    return call_stripe(
        "transfers.create",
        key,
        {"amount_cents": item.amount_cents, "destination": item.destination, **metadata},
        lambda: get_stripe().create_transfer(
            amount_cents=item.amount_cents,
            destination=item.destination,
            transfer_group=_group_of(item),
            metadata=metadata,
            idempotency_key=key,
        ),
    )


def _find_transfer(item: PayoutItem) -> ConnectTransfer | None:
    """What an unanswered request did at Stripe, if anything."""
    found = get_stripe().list_transfers(
        created_from=item.created_at - timedelta(hours=1),
        created_until=timezone.now() + timedelta(hours=1),
        transfer_group=_group_of(item),
    )
    return found[0] if found else None


def _book_paid(item: PayoutItem, sent: ConnectTransfer) -> None:
    if (sent.amount, sent.destination) != (item.amount_cents, item.destination):
        detail = f"Stripe has {sent.id}: {sent.amount} cents to {sent.destination}."
        raise ConflictError(f"The transfer is not that of payout {item.pk}. {detail}")
    with transaction.atomic():
        row = PayoutItem.objects.select_for_update().get(pk=item.pk)
        if row.is_open:
            clearing_id = ledger.get_ledger_account_id(Kind.STRIPE_CLEARING)
            _move_in_flight(row, Transfer.Kind.PAYOUT_SENT, "sent", clearing_id, sent.id)
            row.state, row.connect_transfer_id, row.reason = State.PAID, sent.id, ""
            row.finished_at = timezone.now()
            row.save()
            _tell(row)
    item.refresh_from_db()


def _tell(row: PayoutItem) -> None:
    amount = f"${format_cents(row.amount_cents)}"
    is_paid = row.state == State.PAID
    notify(
        Notification.Kind.PAYOUT,
        row.creator,
        key=f"payout:{row.pk}:{row.state}",
        title=f"A payout of {amount} was sent" if is_paid else f"A payout of {amount} was refused",
        text=row.reason,
        path=f"{reverse('billing:payouts')}?account={row.creator.slug}",
    )


def _refuse(item: PayoutItem, reason: str) -> None:
    """Make the money payable again, and say why."""
    with transaction.atomic():
        row = PayoutItem.objects.select_for_update().get(pk=item.pk)
        if (row.state, row.attempt) == (item.state, item.attempt):
            payable_id = ledger.get_ledger_account_id(
                Kind.CREATOR_PAYABLE, holder_id=row.creator_id
            )
            _move_in_flight(row, Transfer.Kind.PAYOUT_FAILED, "failed", payable_id, str(row.pk))
            row.state, row.reason, row.finished_at = State.REFUSED, reason, timezone.now()
            row.save()
            _tell(row)
    item.refresh_from_db()


def _move_in_flight(
    row: PayoutItem, kind: Transfer.Kind, what: str, to_id: UUID, reference: str
) -> None:
    in_flight_id = _in_flight_of(row.creator_id)
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=kind,
        idempotency_key=f"payout-{what}:{row.pk}",
        amounts_nanos={in_flight_id: -row.amount_nanos, to_id: row.amount_nanos},
        reference=reference,
    )


def _wait(item: PayoutItem, reason: str) -> None:
    _change(item, state=State.WAITING, reason=reason)


def _change(item: PayoutItem, **values: object) -> None:
    """Unless another process went on with the item meanwhile: it knows more."""
    unchanged = PayoutItem.objects.filter(pk=item.pk, state=item.state, attempt=item.attempt)
    if not unchanged.update(**values):
        raise ConflictError(f"Payout {item.pk} was looked after by another process.")
    item.refresh_from_db()


def _key_of(item: PayoutItem) -> str:
    return f"payout:{item.pk}:{item.attempt}"


def _group_of(item: PayoutItem) -> str:
    return f"payout_{item.pk}"


def restore_item(found: ConnectTransfer) -> PayoutItem | None:
    """Write a payout again that our database has lost; what was taken back of it, too.

    It leaves the payable now, which may go below zero by it: what was earned meanwhile, and
    was not released yet, makes up for it before anything is paid again.

    Returns:
        The row; None if it did not go to the creator that it names, or its account is unknown.
    """
    item_id = UUID(found.metadata["payout"])
    connect = ConnectAccount.objects.filter(connect_account_id=found.destination or "").first()
    if connect is None or str(connect.creator_id) != found.metadata.get("creator", ""):
        return None
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_RUN_LOCK])
        item = PayoutItem.objects.filter(pk=item_id).first()
        if item is None:
            item = PayoutItem.objects.create(
                pk=item_id,
                run=PayoutRun.objects.create(),
                creator_id=connect.creator_id,
                amount_cents=found.amount,
                destination=connect.connect_account_id or "",
                state=State.PAID,
                connect_transfer_id=found.id,
                attempt=1,
                finished_at=timezone.now(),
            )
            clearing_id = ledger.get_ledger_account_id(Kind.STRIPE_CLEARING)
            payable_id = ledger.get_ledger_account_id(
                Kind.CREATOR_PAYABLE, holder_id=item.creator_id
            )
            ledger.lock_accounts([payable_id, _in_flight_of(item.creator_id), clearing_id])
            _post_begin(item)
            _move_in_flight(item, Transfer.Kind.PAYOUT_SENT, "sent", clearing_id, found.id)
            audit.record(
                RESTORED_LABEL,
                "payout.restore",
                item,
                account_id=item.creator_id,
                payload={"stripe_id": found.id, "amount_cents": item.amount_cents},
            )
    settle_transfer(found.id)
    return item


# --- Taking back ------------------------------------------------------------------


def take_back(
    actor: Actor, item: PayoutItem, *, amount_cents: int, is_forfeited: bool, reason: str
) -> PayoutReversal:
    """Take back part or all of a paid item from the connected account.

    What is forfeited is the creator's loss: it leaves the payable at once, and comes back to
    it from the connected account. Where that has nothing left, Stripe refuses, and the payable
    stays so much lower, below zero if need be, until new earnings make up for it. What is not
    forfeited becomes payable again.

    Raises:
        InvalidInputError: More than is left of the item, or nothing.
        ConflictError: The item is not paid.
        ForbiddenError: The actor is no admin of the platform.
    """
    _require_admin(actor)
    with transaction.atomic():
        locked = PayoutItem.objects.select_for_update().get(pk=item.pk)
        if locked.state != State.PAID:
            raise ConflictError("Only what was paid can be taken back.")
        left_cents = locked.amount_cents - sum_reversed_cents(locked)
        if not 1 <= amount_cents <= left_cents:
            detail = f"From 1 to {left_cents} cents can be taken back of this payout."
            raise InvalidInputError(errors=[{"pointer": "/amount_cents", "detail": detail}])
        row = PayoutReversal.objects.create(
            item=locked,
            amount_cents=amount_cents,
            is_forfeited=is_forfeited,
            reason=reason,
            created_by=actor.user,
        )
        if is_forfeited:
            _book_forfeit(locked.creator_id, row)
        audit.record(
            actor.label,
            "payout.take_back",
            locked,
            account_id=locked.creator_id,
            payload={
                "amount_cents": amount_cents,
                "is_forfeited": is_forfeited,
                "reason": reason,
            },
        )
    return row


def advance_reversal(reversal_id: UUID) -> PayoutReversal:
    """Take a reversal as far as it goes now; safe to repeat.

    Raises:
        StripeUnavailableError: Nobody knows whether it was done; it is looked after again.
        ConflictError: The same, and Stripe may have forgotten the request.
    """
    with hold_row(_ITEM_LOCK_SPACE, reversal_id) as is_ours:
        row = PayoutReversal.objects.select_related("item").get(pk=reversal_id)
        if not is_ours or row.state != PayoutReversal.State.SENDING:
            return row
        key = f"payout-reversal:{row.pk}"
        call = StripeCall.objects.filter(idempotency_key=key).first()
        if call is not None and not _may_repeat(call):
            _settle_lost_reversal(row)
            return row
        try:
            done = _post_reversal(row, key)
        except StripeRefusedError as error:
            _end_reversal(row, PayoutReversal.State.REFUSED, note=error.detail)
        else:
            _book_reversal(row, done)
    return row


def settle_transfer(connect_transfer_id: str) -> bool:
    """What an event about a transfer asks for: book what was taken back at Stripe by hand.

    Returns:
        Whether the transfer is one of our payouts.
    """
    item = PayoutItem.objects.filter(connect_transfer_id=connect_transfer_id).first()
    if item is None:
        return False
    for found in get_stripe().list_reversals(connect_transfer_id):
        with transaction.atomic():
            PayoutItem.objects.select_for_update().get(pk=item.pk)
            if PayoutReversal.objects.filter(connect_reversal_id=found.id).exists():
                continue
            row = _own_reversal(item, found) or PayoutReversal.objects.create(
                item=item,
                amount_cents=found.amount,
                is_forfeited=False,
                reason="Made at Stripe.",
            )
        _book_reversal(row, found)
    return True


def _own_reversal(item: PayoutItem, found: TransferReversal) -> PayoutReversal | None:
    ours = found.metadata.get("payout_reversal", "")
    return next((one for one in item.reversals.all() if str(one.pk) == ours), None)


def _post_reversal(row: PayoutReversal, key: str) -> TransferReversal:
    transfer_id = row.item.connect_transfer_id
    assert transfer_id is not None, "of a paid item"
    metadata = {"payout_reversal": str(row.pk)}
    return call_stripe(
        "transfers.reversals.create",
        key,
        {"transfer_id": transfer_id, "amount_cents": row.amount_cents, **metadata},
        lambda: get_stripe().reverse_transfer(
            transfer_id=transfer_id,
            amount_cents=row.amount_cents,
            metadata=metadata,
            idempotency_key=key,
        ),
    )


def _settle_lost_reversal(row: PayoutReversal) -> None:
    assert row.item.connect_transfer_id is not None, "of a paid item"
    for found in get_stripe().list_reversals(row.item.connect_transfer_id):
        if found.metadata.get("payout_reversal") == str(row.pk):
            _book_reversal(row, found)
            return
    note = "The payment service never got the request."
    _end_reversal(row, PayoutReversal.State.REFUSED, note=note)


def _book_reversal(row: PayoutReversal, done: TransferReversal) -> None:
    with transaction.atomic():
        locked = PayoutReversal.objects.select_for_update(of=("self",)).get(pk=row.pk)
        if locked.state == PayoutReversal.State.SENDING:
            creator_id = row.item.creator_id
            payable_id = ledger.get_ledger_account_id(Kind.CREATOR_PAYABLE, holder_id=creator_id)
            clearing_id = ledger.get_ledger_account_id(Kind.STRIPE_CLEARING)
            ledger.post_transfer(
                transfer_id=new_id(),
                kind=Transfer.Kind.CLAWBACK,
                idempotency_key=f"clawback:{row.pk}",
                amounts_nanos={clearing_id: -row.amount_nanos, payable_id: row.amount_nanos},
                reference=done.id,
            )
            _end_reversal(row, PayoutReversal.State.DONE, connect_reversal_id=done.id)
    row.refresh_from_db()


def _end_reversal(
    row: PayoutReversal,
    state: PayoutReversal.State,
    *,
    note: str = "",
    connect_reversal_id: str | None = None,
) -> None:
    PayoutReversal.objects.filter(pk=row.pk, state=PayoutReversal.State.SENDING).update(
        state=state, note=note, connect_reversal_id=connect_reversal_id, finished_at=timezone.now()
    )
    row.refresh_from_db()


def _book_forfeit(creator_id: UUID, row: PayoutReversal) -> None:
    payable_id = ledger.get_ledger_account_id(Kind.CREATOR_PAYABLE, holder_id=creator_id)
    loss_id = ledger.get_ledger_account_id(Kind.DISPUTE_LOSS)
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.ADJUSTMENT,
        idempotency_key=f"forfeit:{row.pk}",
        amounts_nanos={payable_id: -row.amount_nanos, loss_id: row.amount_nanos},
        reference=str(row.item_id),
    )
