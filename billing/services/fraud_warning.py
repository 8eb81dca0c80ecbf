"""Early fraud warnings: the card's network reports a payment, before anybody disputes it."""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import timedelta

from django.utils import timezone

from billing.errors import NothingToRefundError, StripeUnavailableError
from billing.models import ReviewSignal, Topup
from billing.selectors.fraud import list_related
from billing.services.fraud import SYSTEM_LABEL, raise_signal
from billing.services.refund import refund_unspent
from billing.services.stripe_client import get_stripe
from billing.services.topup import find_paid_topup
from marketplace.core.errors import ConflictError, MarketplaceError

logger = logging.getLogger(__name__)

# Warnings that nobody told us of are looked for among the latest ones.
LIST_WITHIN = timedelta(days=3)


def settle_fraud_warning(warning_id: str) -> bool:
    """Freeze the account, pay back what is unspent of the payment, and open a case.

    Returns:
        Whether it is about one of our payments.

    Raises:
        ConflictError: The payment is not booked yet, or set aside; try again later.
        StripeUnavailableError, StripeRefusedError: It cannot be asked now.
    """
    known = get_stripe().retrieve_fraud_warning(warning_id)
    if known.payment_intent_id is None:
        return False
    topup = find_paid_topup(known.payment_intent_id)
    if topup is None:
        return False
    if topup.state != Topup.State.CREDITED:
        raise ConflictError(f"The payment of warning {warning_id} is not booked.")
    raise_signal(
        topup.account_id,
        ReviewSignal.Kind.FRAUD_WARNING,
        f"fraud_warning:{warning_id}",
        {"type": known.fraud_type, "amount_cents": topup.amount_cents, "topup": str(topup.pk)},
        freezes=True,
        holds=list_related(topup.account_id),
    )
    # One that was paid back or disputed meanwhile has nothing left to pay back.
    with suppress(NothingToRefundError):
        refund_unspent(
            topup.account,
            request_key=f"fraud_warning:{warning_id}",
            label=SYSTEM_LABEL,
            reason="The card's network reported the payment as fraud.",
            topup=topup,
        )
    return True


def poll_fraud_warnings() -> int:
    """Look for warnings that no webhook told of; returns how many are new to us."""
    # Stripe counts whole seconds, and its clock may be ahead of ours.
    until = timezone.now() + timedelta(minutes=5)
    try:
        listed = get_stripe().list_fraud_warnings(
            created_from=until - LIST_WITHIN, created_until=until
        )
        keys = [f"fraud_warning:{one.id}" for one in listed]
        known = set(ReviewSignal.objects.filter(key__in=keys).values_list("key", flat=True))
        new = [one.id for one in listed if f"fraud_warning:{one.id}" not in known]
        for warning_id in new:
            try:
                settle_fraud_warning(warning_id)
            except StripeUnavailableError:
                raise
            except MarketplaceError as error:
                logger.warning("warning %s cannot be settled: %s", warning_id, error.detail)
    except StripeUnavailableError:
        logger.warning("Stripe does not answer; the poll goes on next time")
        return 0
    return len(new)
