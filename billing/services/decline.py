"""Payments that banks refuse: noted one by one; many in an hour stop the account's buying."""

from __future__ import annotations

import logging
from contextlib import suppress

from django.utils import timezone

from billing.errors import StripeRefusedError, StripeUnavailableError
from billing.models import PaymentDecline, ReviewSignal, StripeCustomer
from billing.selectors.fraud import DECLINE_WINDOW, find_pause_end
from billing.services.fraud import raise_signal
from billing.services.stripe_client import get_stripe
from billing.services.topup import close_pages

logger = logging.getLogger(__name__)


def note_decline(charge_id: str) -> bool:
    """Note a charge that failed, once; whether it is of one of our accounts.

    Too many in an hour pause the account's buying for an hour, and close its payment pages:
    whoever tries cards would go on there.
    """
    charge = get_stripe().retrieve_charge(charge_id)
    customer = (
        StripeCustomer.objects.select_related("account").filter(customer_id=charge.customer).first()
    )
    if customer is None:
        return False
    account = customer.account
    PaymentDecline.objects.get_or_create(
        charge_id=charge.id,
        defaults={
            "account": account,
            "card_fingerprint": charge.card_fingerprint or "",
            # When we heard of it: the pause is from then on.
            "created_at": timezone.now(),
        },
    )
    if ends_at := find_pause_end(account.pk):
        since = timezone.now() - DECLINE_WINDOW
        recent = PaymentDecline.objects.filter(account=account, created_at__gt=since)
        raise_signal(
            account.pk,
            ReviewSignal.Kind.CARD_TESTING,
            f"card_testing:{account.pk}:{ends_at:%Y%m%d%H}",
            {
                "declines": recent.count(),
                "cards": recent.exclude(card_fingerprint="")
                .values("card_fingerprint")
                .distinct()
                .count(),
            },
            holds=[account.pk],
        )
        close_pages(account)
    return True


def note_failed_payment(payment_intent_id: str) -> None:
    """The same by the payment that failed, for who was answered so; the webhook says it too."""
    with suppress(StripeUnavailableError, StripeRefusedError):
        intent = get_stripe().retrieve_payment_intent(payment_intent_id)
        if intent.latest_charge_id is not None:
            note_decline(intent.latest_charge_id)
