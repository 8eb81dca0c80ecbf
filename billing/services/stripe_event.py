"""Webhooks of Stripe: verified, stored, answered; applied afterwards, in any order.

An event is only ever a reason to look: its content is not applied, the object it names is
fetched again. So duplicates, late and reordered events do no harm.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from django.db import transaction
from django.utils import timezone

from billing.errors import StripeUnavailableError
from billing.models import StripeEvent, Topup
from billing.services import card as cards
from billing.services import payout as payouts
from billing.services import topup as topups
from billing.services.connect import refresh_by_event
from billing.services.decline import note_decline
from billing.services.dispute import settle_dispute
from billing.services.fraud_warning import settle_fraud_warning
from billing.services.invoice import look_at_invoice
from billing.services.refund import settle_stripe_refund
from billing.services.stripe_client import get_stripe
from billing.stripe.events import StripeEvent as ReceivedEvent
from billing.tasks.stripe_event import apply_stripe_event as apply_task
from marketplace.core.errors import MarketplaceError

logger = logging.getLogger(__name__)

ATTEMPTS_MAX = 20
SWEEP_SIZE = 100
# Stripe tries for three days by itself.
UNDELIVERED_WITHIN = timedelta(days=4)


def receive_event(payload: bytes, signature: str) -> StripeEvent:
    """Verify and store a webhook; the same event twice is one row.

    Raises:
        WebhookRefusedError: Forged, too old, from the future, or unreadable.
    """
    return _store(get_stripe().verify_webhook(payload, signature))[0]


def _store(event: ReceivedEvent) -> tuple[StripeEvent, bool]:
    """Into the inbox, once; whether it is new."""
    with transaction.atomic():
        row, is_new = StripeEvent.objects.get_or_create(
            pk=event.id,
            defaults={
                "type": event.type,
                "object_id": event.object_id,
                "payload": event.payload,
                "created_at": datetime.fromtimestamp(event.created, UTC),
            },
        )
        if is_new:
            transaction.on_commit(lambda: apply_task.delay(event.id))
    return row, is_new


def poll_undelivered() -> int:
    """Fetch the events that Stripe could not deliver, as if they had come; returns how many.

    Whatever they are about, they end in the same handlers as the others.
    """
    since = timezone.now() - UNDELIVERED_WITHIN
    new = 0
    try:
        for event in get_stripe().list_undelivered_events(
            types=sorted(HANDLERS), created_from=since
        ):
            new += _store(event)[1]
    except StripeUnavailableError:
        logger.warning("Stripe does not answer; the poll goes on next time")
    return new


def apply_event(event_id: str) -> StripeEvent:
    """Do what an event asks for, once. A failure is kept and tried again by the sweep."""
    with transaction.atomic():
        event = StripeEvent.objects.select_for_update().get(pk=event_id)
        if event.state in (StripeEvent.State.APPLIED, StripeEvent.State.IGNORED):
            return event
        event.attempts += 1
        event.save(update_fields=["attempts"])
    try:
        is_applied = _apply(event)
    except MarketplaceError as error:
        logger.warning("stripe event %s failed: %s", event_id, error.code)
        event.state, event.error = StripeEvent.State.FAILED, f"{error.code}: {error.detail}"
    else:
        event.state = StripeEvent.State.APPLIED if is_applied else StripeEvent.State.IGNORED
        event.error = ""
        event.applied_at = timezone.now()
    event.save(update_fields=["state", "error", "applied_at"])
    return event


def sweep_events() -> int:
    """Apply what is left: tasks that were lost, and failures worth another try."""
    left = StripeEvent.objects.filter(
        state__in=[StripeEvent.State.RECEIVED, StripeEvent.State.FAILED],
        attempts__lt=ATTEMPTS_MAX,
    ).order_by("received_at")[:SWEEP_SIZE]
    for event in left:
        apply_event(event.pk)
    return len(left)


def _apply(event: StripeEvent) -> bool:
    """Whether the event was of use: one of ours, about a thing that we know."""
    handle = HANDLERS.get(event.type)
    return handle is not None and handle(event.object_id)


def _settle_checkout(session_id: str) -> bool:
    topup = Topup.objects.filter(checkout_session_id=session_id).first()
    if topup is None:
        return cards.settle_setup(session_id)
    topups.settle_topup(topup.pk)
    return True


# What looks after an object, by the type of event; False for one that is not ours.
HANDLERS: dict[str, Callable[[str], bool]] = {
    "checkout.session.completed": _settle_checkout,
    "checkout.session.async_payment_succeeded": _settle_checkout,
    "checkout.session.async_payment_failed": _settle_checkout,
    "checkout.session.expired": _settle_checkout,
    "payment_intent.succeeded": topups.settle_stripe_payment,
    "payment_intent.payment_failed": topups.settle_stripe_payment,
    "payment_method.attached": cards.settle_card,
    "payment_method.automatically_updated": cards.settle_card,
    "payment_method.detached": cards.settle_card,
    "charge.failed": note_decline,
    "refund.created": settle_stripe_refund,
    "refund.updated": settle_stripe_refund,
    "refund.failed": settle_stripe_refund,
    "charge.dispute.created": settle_dispute,
    "charge.dispute.updated": settle_dispute,
    "charge.dispute.funds_withdrawn": settle_dispute,
    "charge.dispute.funds_reinstated": settle_dispute,
    "charge.dispute.closed": settle_dispute,
    "radar.early_fraud_warning.created": settle_fraud_warning,
    "radar.early_fraud_warning.updated": settle_fraud_warning,
    "v2.core.account.closed": refresh_by_event,
    "v2.core.account.updated": refresh_by_event,
    "v2.core.account[configuration.recipient].capability_status_updated": refresh_by_event,
    "v2.core.account[configuration.recipient].updated": refresh_by_event,
    "v2.core.account[requirements].updated": refresh_by_event,
    "transfer.reversed": payouts.settle_transfer,
    "invoice.created": look_at_invoice,
    "invoice.updated": look_at_invoice,
    "invoice.finalized": look_at_invoice,
    "invoice.paid": look_at_invoice,
    "invoice.payment_failed": look_at_invoice,
    "invoice.overdue": look_at_invoice,
    "invoice.voided": look_at_invoice,
    "invoice.marked_uncollectible": look_at_invoice,
}
