"""Subscriptions to metered prices: what is billed after each month."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import stripe

from billing.errors import StripeRefusedError
from billing.stripe.calls import (
    PAGE_SIZE,
    Calls,
    Metadata,
    at,
    id_of,
    our_errors,
    read_latest,
    texts,
)


@dataclass(frozen=True, slots=True)
class Subscription:
    """A customer's subscription to one price.

    `status` is active, past_due, unpaid, canceled, incomplete, incomplete_expired, trialing
    or paused.
    """

    id: str
    status: str
    customer: str | None
    current_period_start: datetime
    current_period_end: datetime
    latest_invoice_id: str | None
    metadata: Mapping[str, str]


class SubscriptionCalls(Calls):
    """Begin and end subscriptions, and let customers look after them."""

    def create_subscription(
        self,
        *,
        customer_id: str,
        price_id: str,
        metadata: Metadata,
        idempotency_key: str,
        is_taxed: bool = False,
    ) -> Subscription:
        """Bill a customer's metered use after each month from now, by the default card."""
        with our_errors():
            subscription = self._v1.subscriptions.create(
                {
                    "customer": customer_id,
                    "items": [{"price": price_id}],
                    "billing_mode": {"type": "flexible"},
                    "collection_method": "charge_automatically",
                    "off_session": True,
                    "automatic_tax": {"enabled": is_taxed},
                    "metadata": dict(metadata),
                },
                {"idempotency_key": idempotency_key},
            )
        return _subscription(subscription)

    def retrieve_subscription(self, subscription_id: str) -> Subscription:
        """A subscription as it is now."""
        with our_errors():
            return _subscription(self._v1.subscriptions.retrieve(subscription_id))

    def find_subscription(self, *, customer_id: str, key: str, value: str) -> Subscription | None:
        """The customer's newest with this metadata, also if it was canceled."""
        with our_errors():
            rows = self._v1.subscriptions.list(
                params={"customer": customer_id, "status": "all", "limit": PAGE_SIZE}
            )
            for row in read_latest(rows):
                if texts(row.metadata).get(key) == value:
                    return _subscription(row)
        return None

    def cancel_subscription(self, subscription_id: str, *, idempotency_key: str) -> Subscription:
        """End it now; what was used since the last invoice is billed at once.

        Stripe does not know a subscription any more that is to be ended twice; then the one
        that was ended is returned.
        """
        try:
            with our_errors():
                subscription = self._v1.subscriptions.cancel(
                    subscription_id,
                    {"invoice_now": True, "prorate": False},
                    {"idempotency_key": idempotency_key},
                )
        except StripeRefusedError:
            found = self.retrieve_subscription(subscription_id)
            if found.status != "canceled":
                raise
            return found
        return _subscription(subscription)

    def create_portal_session(self, *, customer_id: str, return_url: str) -> str:
        """The address of a page where a customer sees invoices and changes cards."""
        with our_errors():
            session = self._v1.billing_portal.sessions.create(
                {"customer": customer_id, "return_url": return_url}
            )
        return session.url


def _subscription(subscription: stripe.Subscription) -> Subscription:
    # Since 2025-03-31.basil the period is the item's.
    [item] = subscription["items"].data
    return Subscription(
        id=subscription.id,
        status=subscription.status,
        customer=id_of(subscription.customer),
        current_period_start=at(item.current_period_start),
        current_period_end=at(item.current_period_end),
        latest_invoice_id=id_of(subscription.latest_invoice),
        metadata=texts(subscription.metadata),
    )
