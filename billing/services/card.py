"""Cards that an account keeps at Stripe. Ours is a copy: whatever happens, Stripe is asked."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now
from django.urls import reverse
from django.utils import timezone

from billing.errors import StripeRefusedError
from billing.models import AutoTopup, SavedCard, StripeCall, StripeCustomer
from billing.selectors.card import find_default_card
from billing.selectors.fraud import find_pause_end
from billing.services.stripe_call import call_stripe
from billing.services.stripe_client import get_stripe
from billing.services.stripe_customer import ensure_customer
from billing.stripe.client import Card
from marketplace.core.errors import AccountFrozenError, ConflictError, LimitExceededError
from marketplace.core.ids import new_id
from marketplace.models import Account
from marketplace.selectors.access import Actor
from marketplace.services import audit

# Nobody keeps more for one wallet; who tries stolen cards would like to.
CARDS_MAX = 5
# A page on which cards are saved charges nothing: stolen numbers could be tried on it for free.
SETUPS_PER_HOUR_MAX = 10
SYSTEM_LABEL = "system:stripe"


def start_card_setup(account: Account) -> str:
    """Open a page of Stripe's on which a card is saved; returns its address.

    Raises:
        AccountFrozenError: Not before the account's payments are clear.
        ConflictError: There are as many cards as there may be, or too many were declined.
        LimitExceededError: Too many pages were opened in an hour.
        StripeUnavailableError, StripeRefusedError: There is no page.
    """
    if Account.objects.filter(pk=account.pk, frozen_at__isnull=False).exists():
        raise AccountFrozenError
    if find_pause_end(account.pk):
        raise ConflictError("Too many cards of this account were declined; wait an hour.")
    if SavedCard.objects.filter(account=account, removed_at=None).count() >= CARDS_MAX:
        raise ConflictError(f"An account keeps at most {CARDS_MAX} cards; remove one first.")
    prefix = f"card_setup:{account.pk}:"
    since = timezone.now() - timedelta(hours=1)
    opened = StripeCall.objects.filter(idempotency_key__startswith=prefix, first_sent_at__gt=since)
    if opened.count() >= SETUPS_PER_HOUR_MAX:
        raise LimitExceededError(
            f"An account opens at most {SETUPS_PER_HOUR_MAX} such pages an hour.",
            retry_after_s=3_600,
        )
    customer_id = ensure_customer(account)
    url = f"{settings.WEB_URL}{reverse('billing:cards')}?account={account.slug}"
    # A page that is made twice saves a card once at the most: nothing hangs on the key.
    key = f"{prefix}{new_id()}"
    session = call_stripe(
        "checkout.sessions.create",
        key,
        {"account_id": str(account.pk), "mode": "setup"},
        lambda: get_stripe().create_setup_session(
            account_id=account.pk,
            customer_id=customer_id,
            success_url=f"{url}&saved=1",
            cancel_url=url,
            idempotency_key=key,
        ),
    )
    return session.url or url


def sync_cards(account: Account) -> None:
    """Copy what Stripe has: new cards appear, others are marked as removed. Safe to repeat.

    The first card becomes the default, and the newest one does where the default is gone.

    Raises:
        StripeUnavailableError, StripeRefusedError: Nothing has changed.
    """
    customer = StripeCustomer.objects.filter(account=account).first()
    if customer is None:
        return
    known = get_stripe().list_cards(customer.customer_id)
    with transaction.atomic():
        Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        for card in known:
            _copy(account, card)
        gone = SavedCard.objects.filter(account=account, removed_at=None).exclude(
            payment_method_id__in=[card.id for card in known]
        )
        _mark_removed(account, gone, SYSTEM_LABEL)


def remove_card(actor: Actor, card: SavedCard) -> None:
    """Take a card away, at Stripe first.

    Raises:
        StripeUnavailableError: It is not known whether it is gone; try again.
    """
    key = f"detach:{card.pk}"
    try:
        call_stripe(
            "payment_methods.detach",
            key,
            {"payment_method_id": card.payment_method_id},
            lambda: get_stripe().detach_card(card.payment_method_id, idempotency_key=key),
        )
    except StripeRefusedError:
        # Perhaps it is gone there already: then Stripe does not list it any more.
        sync_cards(card.account)
        card.refresh_from_db()
        if card.removed_at is None:
            raise
    with transaction.atomic():
        Account.objects.select_for_update(no_key=True).get(pk=card.account_id)
        gone = SavedCard.objects.filter(pk=card.pk, removed_at=None)
        _mark_removed(card.account, gone, actor.label)


def choose_card(actor: Actor, card: SavedCard) -> None:
    """Make a card the one that pays by itself."""
    with transaction.atomic():
        Account.objects.select_for_update(no_key=True).get(pk=card.account_id)
        cards = SavedCard.objects.filter(account_id=card.account_id)
        cards.filter(is_default=True).exclude(pk=card.pk).update(is_default=False)
        if cards.filter(pk=card.pk, removed_at=None, is_default=False).update(is_default=True):
            _audit(actor.label, "card.choose", card)


def settle_setup(session_id: str) -> bool:
    """Look after a page that saved a card; whether it is of one of our accounts."""
    session = get_stripe().retrieve_checkout_session(session_id)
    return session.mode == "setup" and _sync_customer(session.customer)


def settle_card(payment_method_id: str) -> bool:
    """Look after a card that Stripe names, new, changed or gone; whether it is one of ours."""
    row = SavedCard.objects.select_related("account").filter(payment_method_id=payment_method_id)
    if known := row.first():
        sync_cards(known.account)
        return True
    try:
        card = get_stripe().retrieve_card(payment_method_id)
    except ValueError:  # A bank account; only cards are kept here.
        return False
    return _sync_customer(card.customer)


def _sync_customer(customer_id: str | None) -> bool:
    customer = StripeCustomer.objects.select_related("account").filter(customer_id=customer_id)
    found = customer.first()
    if found is None:
        return False
    sync_cards(found.account)
    return True


def _copy(account: Account, card: Card) -> None:
    facts = {
        "brand": card.brand,
        "last4": card.last4,
        "exp_month": card.exp_month,
        "exp_year": card.exp_year,
        "fingerprint": card.fingerprint or "",
    }
    row, is_new = SavedCard.objects.get_or_create(
        payment_method_id=card.id, defaults={"account": account, **facts}
    )
    if not is_new:
        SavedCard.objects.filter(pk=row.pk).update(**facts)
        return
    if find_default_card(account.pk) is None:
        row.is_default = True
        row.save(update_fields=["is_default"])
    _audit(SYSTEM_LABEL, "card.save", row)


def _mark_removed(account: Account, gone: Iterable[SavedCard], label: str) -> None:
    for card in list(gone):
        SavedCard.objects.filter(pk=card.pk).update(removed_at=Now(), is_default=False)
        _audit(label, "card.remove", card)
    if find_default_card(account.pk) is not None:
        return
    newest = SavedCard.objects.filter(account=account, removed_at=None).order_by("-created_at")
    if heir := newest.first():
        heir.is_default = True
        heir.save(update_fields=["is_default"])
        return
    # It needs a card; a person switches it on again with the next one.
    orders = AutoTopup.objects.filter(account=account, is_enabled=True)
    orders.update(is_enabled=False, off_reason="no_card")


def _audit(label: str, action: str, card: SavedCard) -> None:
    audit.record(
        label,
        action,
        card,
        account_id=card.account_id,
        payload={"brand": card.brand, "last4": card.last4},
    )
