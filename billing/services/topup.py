"""Sell credit: Stripe Checkout out, wallet in. Each payment is credited once.

The webhook, the page that the payer lands on, and a periodic poll all end in
`settle_topup`, which asks Stripe for the present state and believes nothing else. What Stripe
tells of a payment afterwards (the card, the fee) is noted by `note_payment`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from billing.errors import StripeRefusedError, StripeUnavailableError, TooManyDeclinesError
from billing.models import (
    AutoTopup,
    BalanceAlert,
    LedgerAccount,
    StripeCustomer,
    Topup,
    Transfer,
)
from billing.selectors.fraud import find_pause_end
from billing.services import card as cards
from billing.services import ledger
from billing.services.poll import look_after
from billing.services.stripe_call import call_stripe
from billing.services.stripe_client import get_stripe
from billing.services.stripe_customer import ensure_customer
from billing.stripe.client import CheckoutSession, PaymentIntent
from marketplace.core.errors import (
    AccountFrozenError,
    ConflictError,
    InvalidInputError,
    LimitExceededError,
)
from marketplace.core.ids import new_id
from marketplace.core.money import NANOS_PER_CENT
from marketplace.models import Account
from marketplace.selectors.access import Actor
from marketplace.services import audit
from marketplace.services.account_deletion import refuse_while_closing

logger = logging.getLogger(__name__)

# Below, the card's fixed fee eats the credit and card testers feel at home.
AMOUNT_CENTS_MIN = 500
AMOUNT_CENTS_MAX = 1_000_000
OPEN_TOPUPS_MAX = 10
# Nobody needs more payment pages in an hour; who tries stolen cards needs many.
STARTS_PER_HOUR_MAX = 20
CURRENCY = "usd"
# A Checkout page lives for a day at most; what is open longer was never paid.
OPEN_AGE_MAX = timedelta(hours=25)
POLL_AGE_MIN = timedelta(minutes=1)
POLL_BATCH_SIZE = 50
# When the mail about a low wallet goes out, unless the account says otherwise.
LOW_BALANCE_CENTS = 500
# Of a payment whose page is complete: the bank refused, and nobody can try again.
FAILED_PAYMENT_STATES = frozenset({"canceled", "requires_payment_method"})


def start_topup(
    actor: Actor, account: Account, *, amount_cents: int, saves_card: bool = False
) -> Topup:
    """Open a Checkout page for this amount; `checkout_url` says where.

    An account with as many open pages as it may have loses the oldest unpaid one.

    Args:
        actor: Who pays.
        account: Whose wallet.
        amount_cents: The credit; tax comes on top where it is due.
        saves_card: Keep the card for payments while nobody is there.

    Raises:
        InvalidInputError: The amount is out of bounds.
        AccountFrozenError: Not before the account's payments are clear.
        TooManyDeclinesError: Too many of its payments were declined.
        LimitExceededError: Too many pages were opened in an hour.
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
    require_buyer(account)
    with _nothing_was_paid():
        _make_room(account)
        topup = _create_row(actor, account, amount_cents, saves_card=saves_card)
        _open_page(topup, account)
    return topup


def settle_topup(topup_id: UUID) -> Topup:
    """Ask Stripe what became of a top-up, and book it if it was paid. Safe to repeat.

    A payment that does not fit its row (amount, currency, customer) is set aside for a
    person and credited to nobody.
    """
    topup = Topup.objects.get(pk=topup_id)
    if topup.source == Topup.Source.AUTO:
        return settle_payment(topup)
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
    if topup.state == Topup.State.CREDITED:
        # What is not answered now, the poll asks for.
        with suppress(StripeUnavailableError, StripeRefusedError):
            topup = note_payment(topup.pk)
    return topup


def settle_payment(topup: Topup) -> Topup:
    """Book a payment without a page if it was paid, even after it was given up.

    One that failed is ended by whoever began it, who knows what follows from it.
    """
    booked = (Topup.State.CREDITED, Topup.State.QUARANTINED)
    if topup.state in booked or topup.payment_intent_id is None:
        return topup
    intent = get_stripe().retrieve_payment_intent(topup.payment_intent_id)
    with transaction.atomic():
        topup = Topup.objects.select_for_update().get(pk=topup.pk)
        if topup.state in booked:
            return topup
        if intent.status == "succeeded":
            _credit_payment(topup, intent)
    if topup.state == Topup.State.CREDITED:
        with suppress(StripeUnavailableError, StripeRefusedError):
            topup = note_payment(topup.pk)
    return topup


def find_paid_topup(payment_intent_id: str) -> Topup | None:
    """The top-up behind a payment at Stripe, settled first if that was not done yet.

    Stripe's events come in any order: a dispute may be told of before its payment.
    """
    topup = Topup.objects.filter(payment_intent_id=payment_intent_id).first()
    if topup is not None:
        return topup
    intent = get_stripe().retrieve_payment_intent(payment_intent_id)
    try:
        topup_id = UUID(intent.metadata.get("topup_id", ""))
    except ValueError:
        return None
    topup = Topup.objects.filter(pk=topup_id).first()
    if topup is None:
        return None
    if topup.source == Topup.Source.AUTO and topup.payment_intent_id is None:
        # Its making was answered to nobody.
        Topup.objects.filter(pk=topup.pk, payment_intent_id=None).update(
            payment_intent_id=payment_intent_id
        )
    topup = settle_topup(topup.pk)
    is_its_own = topup.payment_intent_id in (None, payment_intent_id)
    return topup if is_its_own else None


def settle_stripe_payment(payment_intent_id: str) -> bool:
    """Look after a payment that Stripe names; whether it is one of ours."""
    topup = find_paid_topup(payment_intent_id)
    if topup is None:
        return False
    settle_topup(topup.pk)
    return True


def note_payment(topup_id: UUID) -> Topup:
    """Note what Stripe tells of a credited payment: its card, its risk, and its fee.

    The fee is booked once per charge, when Stripe has put the payment on the balance.

    Raises:
        StripeUnavailableError, StripeRefusedError: It is not known yet.
    """
    topup = Topup.objects.get(pk=topup_id)
    is_noted = topup.fee_cents is not None
    if topup.state != Topup.State.CREDITED or topup.payment_intent_id is None or is_noted:
        return topup
    stripe = get_stripe()
    intent = stripe.retrieve_payment_intent(topup.payment_intent_id)
    if intent.latest_charge_id is None:
        return topup
    charge = stripe.retrieve_charge(intent.latest_charge_id)
    fee_cents = None
    if charge.balance_transaction_id is not None:
        fee_cents = stripe.retrieve_balance_transaction(charge.balance_transaction_id).fee
    with transaction.atomic():
        topup = Topup.objects.select_for_update().get(pk=topup_id)
        if topup.fee_cents is not None:
            return topup
        topup.charge_id = charge.id
        topup.card_fingerprint = charge.card_fingerprint or ""
        topup.card_funding = charge.card_funding or ""
        topup.risk_level = charge.risk_level or ""
        if fee_cents is not None:
            _book_fee(charge.id, fee_cents, reference=str(topup.pk))
            topup.fee_cents = fee_cents
        noted = ["charge_id", "card_fingerprint", "card_funding", "risk_level", "fee_cents"]
        topup.save(update_fields=noted)
    if topup.saves_card:
        cards.sync_cards(topup.account)
    return topup


def note_payments() -> int:
    """Note what was not known when a payment was credited; returns how many were looked at."""
    waiting = Topup.objects.filter(state=Topup.State.CREDITED, fee_cents=None).exclude(
        payment_intent_id=None
    )
    return look_after(
        waiting,
        lambda topup: note_payment(topup.pk),
        size_max=POLL_BATCH_SIZE,
        what="the payment of top-up",
    )


def require_buyer(account: Account) -> None:
    """Refuse an account that may not buy credit now.

    Raises:
        AccountFrozenError: Not before its payments are clear.
        AccountClosingError: It is going to be deleted.
        TooManyDeclinesError: Too many of its payments were declined in an hour.
    """
    if Account.objects.filter(pk=account.pk, frozen_at__isnull=False).exists():
        raise AccountFrozenError
    refuse_while_closing(account)
    if ends_at := find_pause_end(account.pk):
        wait_s = max(1, round((ends_at - timezone.now()).total_seconds()))
        raise TooManyDeclinesError(retry_after_s=wait_s)


def close_pages(account: Account) -> None:
    """End every page of an account that can still be paid; who tries cards goes on there."""
    for page in _open_pages(account):
        assert page.checkout_session_id is not None, "of _open_pages"
        with suppress(StripeRefusedError):
            get_stripe().expire_checkout_session(
                page.checkout_session_id, idempotency_key=f"expire:{page.pk}"
            )
        with suppress(StripeRefusedError):
            settle_topup(page.pk)


def poll_topups() -> int:
    """Settle what no webhook told of; returns how many top-ups were looked at."""
    waiting = Topup.objects.filter(
        source=Topup.Source.CHECKOUT,
        state=Topup.State.OPEN,
        created_at__lt=timezone.now() - POLL_AGE_MIN,
    )
    return look_after(waiting, _look, size_max=POLL_BATCH_SIZE, what="top-up")


def _look(topup: Topup) -> None:
    if topup.checkout_session_id is None:
        _find_lost_page(topup)
    settle_topup(topup.pk)


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


def _create_row(actor: Actor, account: Account, amount_cents: int, *, saves_card: bool) -> Topup:
    with transaction.atomic():
        # No stronger lock: the gateway's bookings refer to this row and must not wait for it.
        Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        if _open_pages(account).count() >= OPEN_TOPUPS_MAX:
            raise ConflictError(f"{OPEN_TOPUPS_MAX} payments are on their way; wait for one.")
        _check_rate(account)
        topup = Topup.objects.create(
            account=account,
            created_by=actor.user,
            amount_cents=amount_cents,
            is_taxed=settings.STRIPE_TAX,
            saves_card=saves_card,
        )
        audit.record(
            actor.label,
            "topup.start",
            topup,
            account_id=account.pk,
            payload={"amount_cents": amount_cents},
        )
    return topup


def _check_rate(account: Account) -> None:
    since = timezone.now() - timedelta(hours=1)
    started = Topup.objects.filter(
        account=account, source=Topup.Source.CHECKOUT, created_at__gt=since
    )
    if started.count() >= STARTS_PER_HOUR_MAX:
        raise LimitExceededError(
            f"An account opens at most {STARTS_PER_HOUR_MAX} payment pages an hour.",
            retry_after_s=3_600,
        )


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
    params |= {"saves_card": topup.saves_card, "is_taxed": topup.is_taxed}
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
            save_card=topup.saves_card,
            is_taxed=topup.is_taxed,
        ),
    )


def _credit(topup: Topup, session: CheckoutSession) -> None:
    """Book what was paid on a page, if it is what the row asked for."""
    customer = StripeCustomer.objects.get(account_id=topup.account_id)
    facts = (session.amount_subtotal, session.currency, session.customer)
    tax_cents = session.amount_tax or 0
    is_complete = session.amount_total == topup.amount_cents + tax_cents
    is_taxed_as_asked = tax_cents >= 0 and (topup.is_taxed or tax_cents == 0)
    if (
        facts != (topup.amount_cents, CURRENCY, customer.customer_id)
        or session.metadata.get("topup_id") != str(topup.pk)
        or session.payment_intent_id is None
        or not is_complete
        or not is_taxed_as_asked
    ):
        _quarantine(topup, (*facts, session.amount_tax, session.amount_total))
        return
    _book(topup, session.payment_intent_id, tax_cents)


def _credit_payment(topup: Topup, intent: PaymentIntent) -> None:
    """Book what a saved card paid, if it is what the row asked for."""
    customer = StripeCustomer.objects.get(account_id=topup.account_id)
    facts = (intent.amount_received, intent.currency, intent.customer)
    is_named = intent.metadata.get("topup_id") == str(topup.pk)
    if facts != (topup.amount_cents, CURRENCY, customer.customer_id) or not is_named:
        _quarantine(topup, facts)
        return
    _book(topup, intent.id, tax_cents=0)


def _quarantine(topup: Topup, facts: tuple[object, ...]) -> None:
    logger.error("top-up %s does not fit its payment; set aside", topup.pk)
    topup.state = Topup.State.QUARANTINED
    topup.note = f"Stripe says {facts}."
    topup.save(update_fields=["state", "note"])


def _book(topup: Topup, payment_intent_id: str, tax_cents: int) -> None:
    """The credit into the wallet, the tax aside, and all of it at Stripe; once per payment."""
    net_nanos, tax_nanos = topup.amount_cents * NANOS_PER_CENT, tax_cents * NANOS_PER_CENT
    wallet_id = ledger.get_ledger_account_id(LedgerAccount.Kind.WALLET, holder_id=topup.account_id)
    clearing_id = ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_CLEARING)
    amounts = {clearing_id: -net_nanos - tax_nanos, wallet_id: net_nanos}
    if tax_nanos:
        amounts[ledger.get_ledger_account_id(LedgerAccount.Kind.TAX_PAYABLE)] = tax_nanos
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.TOP_UP,
        idempotency_key=f"topup:{payment_intent_id}",
        amounts_nanos=amounts,
        reference=str(topup.pk),
    )
    topup.state = Topup.State.CREDITED
    topup.payment_intent_id = payment_intent_id
    topup.tax_cents = tax_cents
    topup.credited_at = timezone.now()
    topup.save(update_fields=["state", "payment_intent_id", "tax_cents", "credited_at"])
    BalanceAlert.objects.get_or_create(
        account_id=topup.account_id, defaults={"threshold_cents": LOW_BALANCE_CENTS}
    )
    # A payment went through: what was declined before is no reason to wait any more.
    AutoTopup.objects.filter(account_id=topup.account_id, is_enabled=True).update(
        declines_in_row=0, retry_at=None
    )


def _book_fee(charge_id: str, fee_cents: int, *, reference: str) -> None:
    """Stripe kept its fee of a payment: less of ours is there, and it is an expense."""
    if fee_cents == 0:
        return
    fee_nanos = fee_cents * NANOS_PER_CENT
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.FEE,
        idempotency_key=f"fee:{charge_id}",
        amounts_nanos={
            ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_FEE): -fee_nanos,
            ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_CLEARING): fee_nanos,
        },
        reference=reference,
    )
