"""Sell credit: Stripe Checkout out, wallet in. Each payment is credited once.

The webhook, the page that the payer lands on, and a periodic poll all end in
`settle_topup`, which asks Stripe for the present state and believes nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from billing.errors import StripeRefusedError, StripeUnavailableError
from billing.models import LedgerAccount, StripeCustomer, Topup, Transfer
from billing.services import ledger
from billing.services.stripe_call import call_stripe
from billing.services.stripe_client import get_stripe
from billing.services.stripe_customer import ensure_customer
from billing.stripe.client import CheckoutSession
from marketplace.core.errors import ConflictError, InvalidInputError, MarketplaceError
from marketplace.core.ids import new_id
from marketplace.core.money import NANOS_PER_CENT
from marketplace.models import Account
from marketplace.selectors.access import Actor
from marketplace.services import audit

logger = logging.getLogger(__name__)

# Below, the card's fixed fee eats the credit and card testers feel at home.
AMOUNT_CENTS_MIN = 500
AMOUNT_CENTS_MAX = 1_000_000
OPEN_TOPUPS_MAX = 10
CURRENCY = "usd"
# A Checkout page lives for a day at most; what is open longer was never paid.
OPEN_AGE_MAX = timedelta(hours=25)
POLL_AGE_MIN = timedelta(minutes=1)
POLL_BATCH_SIZE = 50
# Of a payment whose page is complete: the bank refused, and nobody can try again.
FAILED_PAYMENT_STATES = frozenset({"canceled", "requires_payment_method"})


def start_topup(actor: Actor, account: Account, *, amount_cents: int) -> Topup:
    """Open a Checkout page for this amount; `checkout_url` says where.

    An account with as many open pages as it may have loses the oldest unpaid one.

    Raises:
        InvalidInputError: The amount is out of bounds.
        ConflictError: Every page that may be open waits for its payment.
        StripeUnavailableError: Try again later; nothing was paid.
        StripeRefusedError: Trying again is no use; nothing was paid.
    """
    if not AMOUNT_CENTS_MIN <= amount_cents <= AMOUNT_CENTS_MAX:
        low, high = AMOUNT_CENTS_MIN // 100, AMOUNT_CENTS_MAX // 100
        raise InvalidInputError(
            errors=[
                {"pointer": "/amount_cents", "detail": f"A top-up is ${low} to ${high:,}."},
            ]
        )
    with _nothing_was_paid():
        _make_room(account)
        topup = _create_row(actor, account, amount_cents)
        _open_page(topup, account)
    return topup


def settle_topup(topup_id: UUID) -> Topup:
    """Ask Stripe what became of a top-up, and book it if it was paid. Safe to repeat.

    A payment that does not fit its row (amount, currency, customer) is set aside for a
    person and credited to nobody.
    """
    topup = Topup.objects.get(pk=topup_id)
    if topup.state != Topup.State.OPEN or topup.checkout_session_id is None:
        return topup
    session = get_stripe().retrieve_checkout_session(topup.checkout_session_id)
    refusal = _find_refusal(session)
    with transaction.atomic():
        topup = Topup.objects.select_for_update().get(pk=topup_id)
        if topup.state != Topup.State.OPEN:
            return topup
        if session.payment_status == "paid":
            _credit(topup, session)
        elif session.status == "expired":
            topup.state = Topup.State.EXPIRED
            topup.save(update_fields=["state"])
        elif refusal:
            topup.state, topup.note = Topup.State.EXPIRED, f"The payment failed ({refusal})."
            topup.save(update_fields=["state", "note"])
    return topup


def poll_topups() -> int:
    """Settle what no webhook told of; returns how many top-ups were looked at."""
    waiting = Topup.objects.filter(
        state=Topup.State.OPEN, created_at__lt=timezone.now() - POLL_AGE_MIN
    ).order_by(F("checked_at").asc(nulls_first=True), "created_at")[:POLL_BATCH_SIZE]
    looked_at = 0
    for topup in waiting:
        # Before the look, so that a row that always fails goes to the end of the queue too.
        Topup.objects.filter(pk=topup.pk).update(checked_at=Now())
        looked_at += 1
        try:
            if topup.checkout_session_id is None:
                _find_lost_page(topup)
            settle_topup(topup.pk)
        except StripeUnavailableError:
            logger.warning("Stripe does not answer; the poll goes on next time")
            break
        except MarketplaceError as error:
            # Stripe does not know a page after a change of keys, for example.
            logger.warning("top-up %s cannot be settled: %s", topup.pk, error.detail)
    return looked_at


def _find_refusal(session: CheckoutSession) -> str:
    """How a payment that was still on its way at the end of the page failed; else empty.

    Stripe leaves such a page complete and unpaid for ever; only the payment knows.
    """
    if (session.status, session.payment_status) != ("complete", "unpaid"):
        return ""
    if session.payment_intent_id is None:
        return ""
    status = get_stripe().retrieve_payment_intent(session.payment_intent_id).status
    return status if status in FAILED_PAYMENT_STATES else ""


def _find_lost_page(topup: Topup) -> None:
    """Look for a page whose making was answered to nobody: it may have been paid."""
    customer = StripeCustomer.objects.filter(account_id=topup.account_id).first()
    session = customer and get_stripe().find_checkout_session(
        topup_id=topup.pk, customer_id=customer.customer_id
    )
    if session:
        topup.checkout_session_id = session.id
        topup.checkout_url = session.url or ""
        topup.save(update_fields=["checkout_session_id", "checkout_url"])
    elif topup.created_at < timezone.now() - OPEN_AGE_MAX:
        topup.state = Topup.State.EXPIRED
        topup.save(update_fields=["state"])


@contextmanager
def _nothing_was_paid() -> Iterator[None]:
    """Say so with Stripe's failures: true only before anybody was sent to a page."""
    try:
        yield
    except (StripeUnavailableError, StripeRefusedError) as error:
        raise type(error)(
            f"{error.detail} Nothing was paid.", retry_after_s=error.retry_after_s, **error.params
        ) from error


def _open_pages(account: Account) -> QuerySet[Topup]:
    """Pages that can be paid, oldest first. A row without one is no page: its call failed."""
    return Topup.objects.filter(
        account=account,
        state=Topup.State.OPEN,
        checkout_session_id__isnull=False,
        created_at__gt=timezone.now() - OPEN_AGE_MAX,
    ).order_by("created_at")


def _make_room(account: Account) -> None:
    """End the oldest page that nobody paid, if there are as many as there may be."""
    pages = list(_open_pages(account))
    if len(pages) < OPEN_TOPUPS_MAX:
        return
    for page in pages:
        assert page.checkout_session_id is not None, "of _open_pages"
        # Stripe refuses where somebody paid meanwhile, and what it knows is booked then.
        with suppress(StripeRefusedError):
            get_stripe().expire_checkout_session(
                page.checkout_session_id, idempotency_key=f"expire:{page.pk}"
            )
        with suppress(StripeRefusedError):
            if settle_topup(page.pk).state != Topup.State.OPEN:
                return


def _create_row(actor: Actor, account: Account, amount_cents: int) -> Topup:
    with transaction.atomic():
        # No stronger lock: the gateway's bookings refer to this row and must not wait for it.
        Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        if _open_pages(account).count() >= OPEN_TOPUPS_MAX:
            raise ConflictError(f"{OPEN_TOPUPS_MAX} payments are on their way; wait for one.")
        topup = Topup.objects.create(
            account=account, created_by=actor.user, amount_cents=amount_cents
        )
        audit.record(
            actor.label,
            "topup.start",
            topup,
            account_id=account.pk,
            payload={"amount_cents": amount_cents},
        )
    return topup


def _open_page(topup: Topup, account: Account) -> None:
    """Make the page at Stripe; a row whose page was refused ends."""
    try:
        session = _create_session(topup, account)
    except StripeRefusedError as error:
        topup.state, topup.note = Topup.State.EXPIRED, error.detail
        topup.save(update_fields=["state", "note"])
        raise
    topup.checkout_session_id = session.id
    topup.checkout_url = session.url or ""
    topup.save(update_fields=["checkout_session_id", "checkout_url"])


def _create_session(topup: Topup, account: Account) -> CheckoutSession:
    customer_id = ensure_customer(account)
    return_url = f"{settings.WEB_URL}/console/topups/{topup.pk}"
    key = f"topup:{topup.pk}"
    amount_cents = topup.amount_cents
    params = {"topup_id": str(topup.pk), "customer_id": customer_id, "amount_cents": amount_cents}
    return call_stripe(
        "checkout.sessions.create",
        key,
        params,
        lambda: get_stripe().create_checkout_session(
            topup_id=topup.pk,
            customer_id=customer_id,
            amount_cents=amount_cents,
            success_url=f"{return_url}?session_id={{CHECKOUT_SESSION_ID}}",
            cancel_url=return_url,
            idempotency_key=key,
        ),
    )


def _credit(topup: Topup, session: CheckoutSession) -> None:
    customer = StripeCustomer.objects.get(account_id=topup.account_id)
    facts = (session.amount_total, session.currency, session.customer)
    if facts != (topup.amount_cents, CURRENCY, customer.customer_id):
        logger.error("top-up %s does not fit its payment; set aside", topup.pk)
        topup.state = Topup.State.QUARANTINED
        topup.note = f"Stripe says {facts}."
        topup.save(update_fields=["state", "note"])
        return
    amount_nanos = topup.amount_cents * NANOS_PER_CENT
    wallet_id = ledger.get_ledger_account_id(LedgerAccount.Kind.WALLET, holder_id=topup.account_id)
    clearing_id = ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_CLEARING)
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.TOP_UP,
        idempotency_key=f"topup:{session.payment_intent_id}",
        amounts_nanos={clearing_id: -amount_nanos, wallet_id: amount_nanos},
        reference=str(topup.pk),
    )
    topup.state = Topup.State.CREDITED
    topup.payment_intent_id = session.payment_intent_id
    topup.credited_at = timezone.now()
    topup.save(update_fields=["state", "payment_intent_id", "credited_at"])
