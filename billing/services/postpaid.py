"""Let accounts pay later: agree on terms, give credit, end it again.

Credit is a limit below zero of a ledger account; `billing_reserve` reserves on it from the
moment the limit is set, and on the wallet again from the moment it is taken away.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Protocol
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Sum

from billing.errors import StripeRefusedError, StripeUnavailableError
from billing.models import (
    Invoice,
    LedgerAccount,
    MeterReport,
    PostpaidTerms,
    StripeCall,
    Transfer,
    TransferEntry,
)
from billing.selectors.invoice import find_carried_cents
from billing.selectors.ledger import find_ledger_account
from billing.selectors.meter import find_carried_nanos, read_clock
from billing.services import ledger
from billing.services.meter import EVENT_NAME, NANOS_PER_MICRO, return_credit
from billing.services.stripe_call import call_stripe
from billing.services.stripe_client import get_stripe
from billing.services.stripe_customer import ensure_customer
from billing.services.tax_details import send_tax_details
from billing.stripe.subscriptions import Subscription
from marketplace.core.errors import ConflictError, ForbiddenError, InvalidInputError
from marketplace.core.ids import new_id
from marketplace.core.limits import REASON_LENGTH_MAX
from marketplace.core.money import NANOS_PER_CENT, NANOS_PER_DOLLAR
from marketplace.models import Account
from marketplace.selectors.access import Actor
from marketplace.services import audit

logger = logging.getLogger(__name__)

State = PostpaidTerms.State

# Below, invoices cost more than they bring; above, a person should look for longer.
LIMIT_NANOS_MIN = 10 * NANOS_PER_DOLLAR
LIMIT_NANOS_MAX = 100_000 * NANOS_PER_DOLLAR
# On receipt, or in what business calls net 60.
DUE_DAYS_MIN, DUE_DAYS_MAX = 0, 60
LOOKUP_KEY = "strongroom_usage_micro_usd"
# A millionth of a dollar, in cents.
UNIT_AMOUNT_DECIMAL = Decimal("0.0001")
PRODUCT_NAME = "Predictions"
# The key of a call that was lost for longer may mean a new call to Stripe.
BLIND_RETRY_MAX = timedelta(hours=20)
SYSTEM_LABEL = "system:postpaid"


class Decide(Protocol):
    """What a platform admin decides about terms: limit, days to pay, and why."""

    def __call__(
        self, actor: Actor, terms: PostpaidTerms, *, limit_nanos: int, due_days: int, reason: str
    ) -> PostpaidTerms: ...


# Where nothing is agreed, or not any more.
_OPEN_TO_BEGIN = (State.REFUSED, State.CLOSED)


def apply_for_terms(
    actor: Actor, account: Account, *, wanted_limit_nanos: int, note: str = ""
) -> PostpaidTerms:
    """Ask to pay later; a platform admin decides. The caller has checked the right `billing`.

    Raises:
        InvalidInputError: The limit is out of bounds.
        ConflictError: Terms were asked for, offered or agreed already.
    """
    _check_limit(wanted_limit_nanos)
    with transaction.atomic():
        terms = _begin(account, State.APPLIED, note=note, wanted_limit_nanos=wanted_limit_nanos)
        payload = {"wanted_limit_nanos": wanted_limit_nanos}
        _record(actor.label, "postpaid.apply", terms, payload)
    return terms


def offer_terms(
    actor: Actor, account: Account, *, limit_nanos: int, due_days: int, reason: str
) -> PostpaidTerms:
    """Offer an account to pay later; it accepts or not."""
    _require_admin(actor)
    _check(limit_nanos, due_days, reason)
    with transaction.atomic():
        terms = _begin(
            account,
            State.OFFERED,
            note=reason,
            credit_limit_nanos=limit_nanos,
            due_days=due_days,
            wanted_limit_nanos=None,
        )
        _record(actor.label, "postpaid.offer", terms, _describe(terms, reason))
    return terms


def accept_terms(actor: Actor, account: Account) -> PostpaidTerms:
    """Take what was offered. The caller has checked the right `billing`."""
    with transaction.atomic():
        terms = _lock(account.pk, State.OFFERED)
        _move(terms, State.APPROVED)
        _record(actor.label, "postpaid.accept", terms, _describe(terms))
    return _try_to_activate(terms)


def decline_terms(actor: Actor, account: Account) -> PostpaidTerms:
    """Decline what was offered, or take back what was asked for."""
    with transaction.atomic():
        terms = _lock(account.pk, State.OFFERED, State.APPLIED)
        _move(terms, State.REFUSED, note="")
        _record(actor.label, "postpaid.decline", terms, {})
    return terms


def approve_terms(
    actor: Actor, terms: PostpaidTerms, *, limit_nanos: int, due_days: int, reason: str
) -> PostpaidTerms:
    """Give an account credit that asked for it."""
    _require_admin(actor)
    _check(limit_nanos, due_days, reason)
    with transaction.atomic():
        locked = _lock(terms.account_id, State.APPLIED)
        locked.credit_limit_nanos, locked.due_days = limit_nanos, due_days
        _move(locked, State.APPROVED, note=reason)
        _record(actor.label, "postpaid.approve", locked, _describe(locked, reason))
    return _try_to_activate(locked)


def refuse_terms(actor: Actor, terms: PostpaidTerms, *, reason: str) -> PostpaidTerms:
    """Refuse what was asked for, or take back what was offered."""
    _require_admin(actor)
    _check_reason(reason)
    with transaction.atomic():
        locked = _lock(terms.account_id, State.APPLIED, State.OFFERED)
        _move(locked, State.REFUSED, note=reason)
        _record(actor.label, "postpaid.refuse", locked, {"reason": reason})
    return locked


def change_terms(
    actor: Actor, terms: PostpaidTerms, *, limit_nanos: int, due_days: int, reason: str
) -> PostpaidTerms:
    """Set another limit. Under what is owed already it stops new predictions, and no others."""
    _require_admin(actor)
    _check(limit_nanos, due_days, reason)
    with transaction.atomic():
        locked = _lock(terms.account_id, State.ACTIVE)
        before = _describe(locked)
        locked.credit_limit_nanos, locked.due_days = limit_nanos, due_days
        _move(locked, State.ACTIVE, note=reason)
        set_credit(locked.account_id, limit_nanos)
        payload = {**_describe(locked, reason), "before": before}
        _record(actor.label, "postpaid.change", locked, payload)
    return locked


def close_terms(actor: Actor, terms: PostpaidTerms, *, reason: str = "") -> PostpaidTerms:
    """End credit: from now on predictions are paid from the wallet.

    The terms are closed once the last invoice is paid. The caller is a platform admin, or has
    checked the right `billing`.
    """
    with transaction.atomic():
        locked = _lock(terms.account_id, State.ACTIVE)
        locked.closing_at = read_clock()
        _move(locked, State.CLOSING, note=reason)
        set_credit(locked.account_id, None)
        _record(actor.label, "postpaid.close", locked, {"reason": reason})
    return locked


def set_credit(account_id: UUID, limit_nanos: int | None) -> int:
    """Set how much an account may owe (None: it pays from its wallet); what it owes now."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT billing_set_credit(%s, %s)", [account_id, limit_nanos])
        return int(cursor.fetchone()[0])


def refresh_credit(terms: PostpaidTerms) -> None:
    """Let the floor follow a limit that was lowered, as far as it can by now."""
    set_credit(terms.account_id, terms.credit_limit_nanos if terms.state == State.ACTIVE else None)


def advance_postpaid() -> int:
    """Go on with what waits for Stripe, for holds or for payments; returns how many moved."""
    moved = _return_late_credit()
    states = [State.APPROVED, State.ACTIVE, State.CLOSING]
    for terms in PostpaidTerms.objects.filter(state__in=states).order_by("created_at"):
        try:
            if terms.state == State.APPROVED:
                moved += activate(terms).state == State.ACTIVE
            elif terms.state == State.CLOSING:
                moved += _finish(terms)
            _tighten(terms)
        except StripeUnavailableError:
            logger.warning("Stripe does not answer; postpaid accounts go on next time")
            break
        except StripeRefusedError as error:
            logger.critical("postpaid terms %s are stuck: %s", terms.pk, error.detail)
    return moved


# --- Beginning ----------------------------------------------------------------------


def activate(terms: PostpaidTerms) -> PostpaidTerms:
    """Make the subscription, then give the credit. Safe to repeat.

    Raises:
        StripeUnavailableError: Try again later.
        StripeRefusedError: Trying again is no use.
    """
    customer_id = ensure_customer(terms.account)
    send_tax_details(terms.account)
    meter = get_stripe().ensure_meter(event_name=EVENT_NAME, display_name="Predictions (micro-USD)")
    price = get_stripe().ensure_metered_price(
        meter_id=meter.id,
        lookup_key=LOOKUP_KEY,
        unit_amount_decimal=UNIT_AMOUNT_DECIMAL,
        product_name=PRODUCT_NAME,
    )
    subscription = _ensure_subscription(terms, customer_id, price.id)
    with transaction.atomic():
        locked = PostpaidTerms.objects.select_for_update().get(pk=terms.pk)
        if locked.state != State.APPROVED or locked.round != terms.round:
            return locked
        locked.meter_id, locked.subscription_id = meter.id, subscription.id
        locked.activated_at = read_clock()
        locked.closing_at = locked.subscription_ended_at = locked.closed_at = None
        _move(locked, State.ACTIVE, note=locked.note)
        set_credit(locked.account_id, locked.credit_limit_nanos)
        _record(SYSTEM_LABEL, "postpaid.activate", locked, _describe(locked))
    return locked


def _ensure_subscription(terms: PostpaidTerms, customer_id: str, price_id: str) -> Subscription:
    """The subscription of this round, made once however often it is asked for."""
    name = f"{terms.pk}:{terms.round}"
    key = f"postpaid:{name}"
    earlier = StripeCall.objects.filter(idempotency_key=key).first()
    if earlier is not None and earlier.first_sent_at < read_clock() - BLIND_RETRY_MAX:
        found = get_stripe().find_subscription(customer_id=customer_id, key="terms", value=name)
        if found is not None:
            return found
    return call_stripe(
        "subscriptions.create",
        key,
        {"customer_id": customer_id, "price_id": price_id, "terms": name},
        lambda: get_stripe().create_subscription(
            customer_id=customer_id,
            price_id=price_id,
            metadata={"terms": name},
            idempotency_key=key,
            is_taxed=settings.STRIPE_TAX,
        ),
    )


def _try_to_activate(terms: PostpaidTerms) -> PostpaidTerms:
    """At once where Stripe answers; else a task goes on with it."""
    try:
        return activate(terms)
    except StripeUnavailableError:
        logger.warning("postpaid terms %s wait for Stripe", terms.pk)
        return terms


# --- Ending -------------------------------------------------------------------------


def _finish(terms: PostpaidTerms) -> bool:
    """Take the next step of an end; whether the terms are closed now."""
    row = find_ledger_account(LedgerAccount.Kind.RECEIVABLE, holder_id=terms.account_id)
    assert row is not None, "of an account that had credit"
    if row.held_nanos or not _is_all_reported(row):
        return False
    if terms.subscription_ended_at is None:
        key = f"postpaid-end:{terms.pk}:{terms.round}"
        call_stripe(
            "subscriptions.cancel",
            key,
            {"subscription_id": terms.subscription_id},
            lambda: get_stripe().cancel_subscription(terms.subscription_id, idempotency_key=key),
        )
        terms.subscription_ended_at = read_clock()
        terms.save(update_fields=["subscription_ended_at"])
        return False
    with transaction.atomic():
        locked = PostpaidTerms.objects.select_for_update().get(pk=terms.pk)
        row.refresh_from_db()
        unpaid = Invoice.objects.filter(
            account_id=terms.account_id, state__in=[Invoice.State.DRAFT, Invoice.State.OPEN]
        )
        # All else is on an invoice: paid, or so little that Stripe carries it to a next one.
        left_nanos = row.owed_nanos - find_carried_cents(terms.account_id) * NANOS_PER_CENT
        # Less than Stripe can count, but for what was given back and is still carried.
        is_settled = abs(left_nanos + find_carried_nanos(terms.account_id)) < NANOS_PER_MICRO
        if locked.state != State.CLOSING or unpaid.exists() or not is_settled:
            return False
        _forgive(locked, row, left_nanos + return_credit(terms.account_id))
        locked.closed_at, locked.paused_at = read_clock(), None
        _move(locked, State.CLOSED, note=locked.note)
        set_credit(locked.account_id, None)
        _record(SYSTEM_LABEL, "postpaid.closed", locked, {})
    return True


def _is_all_reported(row: LedgerAccount) -> bool:
    """Whether Stripe has counted all that was ever used on credit, less what was given back."""
    assert row.holder_id is not None, "a receivable is an account's"
    reports = MeterReport.objects.filter(account_id=row.holder_id)
    open_states = [MeterReport.State.NEW, MeterReport.State.SENT, MeterReport.State.UNCLEAR]
    if reports.filter(state__in=open_states).exists():
        return False
    kinds = [Transfer.Kind.USAGE, Transfer.Kind.USAGE_REVERSAL]
    moved = TransferEntry.objects.filter(ledger_account=row, transfer__kind__in=kinds)
    sums = reports.aggregate(used=Sum("usage_nanos"), reversed=Sum("reversed_nanos"))
    reported_nanos = (sums["used"] or 0) - (sums["reversed"] or 0)
    return reported_nanos == -(moved.aggregate(sum=Sum("amount_nanos"))["sum"] or 0)


def _return_late_credit() -> int:
    """Send on what was given back after the end; returns to how many accounts."""
    ended = PostpaidTerms.objects.filter(
        state=State.CLOSED,
        account__ledger_accounts__kind=LedgerAccount.Kind.RECEIVABLE,
        account__ledger_accounts__posted_nanos__gt=0,
    )
    moved = 0
    for terms in ended.order_by("created_at"):
        with transaction.atomic():
            locked = PostpaidTerms.objects.select_for_update().get(pk=terms.pk)
            if locked.state == State.CLOSED:
                moved += return_credit(locked.account_id) > 0
    return moved


def _forgive(terms: PostpaidTerms, row: LedgerAccount, left_nanos: int) -> None:
    """Let go of what is less than Stripe can count; more waits there for a next invoice."""
    if 0 < abs(left_nanos) < NANOS_PER_MICRO:
        rounding_id = ledger.get_ledger_account_id(LedgerAccount.Kind.ROUNDING)
        ledger.post_transfer(
            transfer_id=new_id(),
            kind=Transfer.Kind.ADJUSTMENT,
            idempotency_key=f"postpaid-closed:{terms.pk}:{terms.round}",
            amounts_nanos={row.pk: left_nanos, rounding_id: -left_nanos},
            reference=str(terms.pk),
        )


def _tighten(terms: PostpaidTerms) -> None:
    row = find_ledger_account(LedgerAccount.Kind.RECEIVABLE, holder_id=terms.account_id)
    if row is not None and row.min_available_nanos != -(row.credit_limit_nanos or 0):
        with transaction.atomic():
            refresh_credit(PostpaidTerms.objects.select_for_update().get(pk=terms.pk))


# --- Rows ---------------------------------------------------------------------------


def _begin(account: Account, state: State, **values: object) -> PostpaidTerms:
    # One at a time for an account; rows that refer to the account do not wait.
    Account.objects.select_for_update(no_key=True).get(pk=account.pk)
    terms = PostpaidTerms.objects.select_for_update().filter(account=account).first()
    if terms is None:
        return PostpaidTerms.objects.create(account=account, state=state, **values)
    if terms.state not in _OPEN_TO_BEGIN:
        raise ConflictError(f"The terms of {account} are {terms.get_state_display().lower()}.")
    if terms.subscription_id and terms.state == State.CLOSED:
        terms.round += 1
    terms.subscription_id = ""
    for name, value in values.items():
        setattr(terms, name, value)
    terms.state = state
    terms.save()
    return terms


def _lock(account_id: UUID, *states: State) -> PostpaidTerms:
    terms = PostpaidTerms.objects.select_for_update().filter(account_id=account_id).first()
    if terms is None or terms.state not in states:
        now = "there are none" if terms is None else f"they are {terms.get_state_display().lower()}"
        raise ConflictError(f"The terms do not allow this now: {now}.")
    return terms


def _move(terms: PostpaidTerms, state: State, **values: object) -> None:
    terms.state = state
    for name, value in values.items():
        setattr(terms, name, value)
    terms.save()


def _record(label: str, action: str, terms: PostpaidTerms, payload: Mapping[str, object]) -> None:
    audit.record(label, action, terms, account_id=terms.account_id, payload=dict(payload))


def _describe(terms: PostpaidTerms, reason: str = "") -> dict[str, object]:
    described: dict[str, object] = {
        "credit_limit_nanos": terms.credit_limit_nanos,
        "due_days": terms.due_days,
    }
    return described | ({"reason": reason} if reason else {})


def _require_admin(actor: Actor) -> None:
    if not actor.is_admin:
        raise ForbiddenError("Only platform admins decide about credit.")


def _check(limit_nanos: int, due_days: int, reason: str) -> None:
    _check_limit(limit_nanos)
    if not DUE_DAYS_MIN <= due_days <= DUE_DAYS_MAX:
        _refuse("due_days", f"From {DUE_DAYS_MIN} to {DUE_DAYS_MAX} days.")
    _check_reason(reason)


def _check_limit(limit_nanos: int) -> None:
    if not LIMIT_NANOS_MIN <= limit_nanos <= LIMIT_NANOS_MAX:
        low, high = LIMIT_NANOS_MIN // NANOS_PER_DOLLAR, LIMIT_NANOS_MAX // NANOS_PER_DOLLAR
        _refuse("credit_limit_nanos", f"A credit limit is ${low} to ${high:,}.")


def _check_reason(reason: str) -> None:
    if not 0 < len(reason.strip()) <= REASON_LENGTH_MAX:
        _refuse("reason", f"A reason has 1 to {REASON_LENGTH_MAX} characters.")


def _refuse(member: str, detail: str) -> None:
    raise InvalidInputError(errors=[{"pointer": f"/{member}", "detail": detail}])
