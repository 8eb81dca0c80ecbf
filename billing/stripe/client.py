"""Calls to Stripe: typed, with a timeout, repeatable, and with our own errors.

Nothing here decides about money. Callers write their intent down first, pass an idempotency
key of their own that outlives this process, and believe only what `retrieve_…` says.

The SDK repeats a call by itself after connection errors, conflicts and 5xx, with the same
key; it never repeats a 429. What still fails after that is `StripeUnavailableError` when the
same call with the same key may be made again, and `StripeRefusedError` when it may not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import stripe

from billing.stripe.balance import Balance, BalanceCalls, BalanceTransaction
from billing.stripe.calls import our_errors
from billing.stripe.checkout import CheckoutCalls, CheckoutSession
from billing.stripe.connect import (
    ConnectAccount,
    ConnectCalls,
    ConnectTransfer,
    TransferReversal,
)
from billing.stripe.customers import CustomerCalls
from billing.stripe.disputes import Dispute, DisputeCalls, FraudWarning
from billing.stripe.events import StripeEvent, verify_webhook
from billing.stripe.invoices import CreditNote, Invoice, InvoiceCalls, InvoiceLine
from billing.stripe.metering import Meter, MeteredPrice, MeterHour, MeteringCalls
from billing.stripe.patience import PatientClient
from billing.stripe.payments import Card, Charge, PaymentCalls, PaymentIntent, Refund
from billing.stripe.subscriptions import Subscription, SubscriptionCalls

if TYPE_CHECKING:  # Types only; at run time the SDK wants plain dictionaries.
    from stripe.params import CustomerCreateParams

__all__ = [
    "API_VERSION",
    "Balance",
    "BalanceTransaction",
    "Card",
    "Charge",
    "CheckoutSession",
    "ConnectAccount",
    "ConnectTransfer",
    "CreditNote",
    "Dispute",
    "FraudWarning",
    "Invoice",
    "InvoiceLine",
    "Meter",
    "MeterHour",
    "MeteredPrice",
    "PaymentIntent",
    "Refund",
    "StripeConfig",
    "StripeEvent",
    "StripeGateway",
    "Subscription",
    "TransferReversal",
    "make_client",
]

# The version this SDK was generated for; a newer SDK must not change answers silently.
API_VERSION = "2026-10-28.endive"

TIMEOUT_S = 10
RETRIES_MAX = 2


@dataclass(frozen=True, slots=True)
class StripeConfig:
    """What a client needs. `api_base` is set for a stand-in only."""

    secret_key: str = field(repr=False)
    webhook_secret: str = field(repr=False)
    api_base: str | None = None


def make_client(
    config: StripeConfig, *, http_client: stripe.HTTPClient | None = None
) -> stripe.StripeClient:
    """The SDK's client with everything explicit that its defaults get wrong for us.

    Args:
        config: Keys and, for a stand-in, its address.
        http_client: Instead of requests with a timeout and patience; tests look at the traffic
            with it.
    """
    addresses: Any = {}  # The SDK does not export the type.
    if config.api_base:
        base = config.api_base.rstrip("/")
        addresses = {"api": base, "connect": base, "files": base, "meter_events": base}
    return stripe.StripeClient(
        config.secret_key,
        stripe_version=API_VERSION,
        base_addresses=addresses,
        max_network_retries=RETRIES_MAX,
        http_client=http_client or PatientClient(timeout=TIMEOUT_S),
    )


class StripeGateway(
    CheckoutCalls,
    PaymentCalls,
    DisputeCalls,
    BalanceCalls,
    ConnectCalls,
    MeteringCalls,
    SubscriptionCalls,
    InvoiceCalls,
    CustomerCalls,
):
    """The calls that billing makes. Safe to share between threads.

    Every method raises StripeUnavailableError when the outcome is not known or nothing was
    done, and the same call may be repeated; StripeRefusedError when repeating is no use.
    """

    def __init__(
        self, config: StripeConfig, *, http_client: stripe.HTTPClient | None = None
    ) -> None:
        super().__init__(make_client(config, http_client=http_client))
        self._webhook_secret = config.webhook_secret

    def create_customer(self, *, account_id: UUID, email: str, idempotency_key: str) -> str:
        """The id of a new customer who stands for an account; the email may be empty."""
        params: CustomerCreateParams = {"metadata": {"account_id": str(account_id)}}
        if email:
            params["email"] = email
        with our_errors():
            customer = self._v1.customers.create(
                params=params, options={"idempotency_key": idempotency_key}
            )
        return customer.id

    def verify_webhook(
        self, payload: bytes, signature: str, *, now: datetime | None = None
    ) -> StripeEvent:
        """Read a webhook that Stripe signed within five minutes of now.

        Raises:
            WebhookRefusedError: `params["reason"]` says what is wrong with it.
        """
        return verify_webhook(payload, signature, self._webhook_secret, now or datetime.now(UTC))
