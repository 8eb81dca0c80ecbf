"""Calls to Stripe: typed, with a timeout, repeatable, and with our own errors.

Nothing here decides about money. Callers write their intent down first, pass an idempotency
key of their own that outlives this process, and believe only what `retrieve_…` says.

The SDK repeats a call by itself after connection errors, conflicts and 5xx, with the same
key; it never repeats a 429. What still fails after that is `StripeUnavailableError` when the
same call with the same key may be made again, and `StripeRefusedError` when it may not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from uuid import UUID

import stripe

from billing.errors import StripeRefusedError, StripeUnavailableError
from billing.stripe.events import StripeEvent, read_event, verify_webhook

# The version this SDK was generated for; a newer SDK must not change answers silently.
API_VERSION = "2026-10-28.endive"

TIMEOUT_S = 10
RETRIES_MAX = 2
RETRY_AFTER_S = 5
LIST_SIZE_MAX = 1_000

CURRENCY = "usd"
PRODUCT_NAME = "Prediction credit"


@dataclass(frozen=True, slots=True)
class StripeConfig:
    """What a client needs. `api_base` is set for a stand-in only."""

    secret_key: str = field(repr=False)
    webhook_secret: str = field(repr=False)
    api_base: str | None = None


@dataclass(frozen=True, slots=True)
class CheckoutSession:
    """A payment page.

    `status` is open, complete or expired; `payment_status` is paid, unpaid or
    no_payment_required. Only "paid" means that money came. `amount_total` is in cents.
    """

    id: str
    url: str | None
    expires_at: datetime
    status: str | None
    payment_status: str
    amount_total: int | None
    currency: str | None
    customer: str | None
    metadata: Mapping[str, str]
    payment_intent_id: str | None


@dataclass(frozen=True, slots=True)
class PaymentIntent:
    """The payment behind a page; amounts in cents."""

    id: str
    status: str
    amount: int
    amount_received: int
    currency: str
    customer: str | None
    metadata: Mapping[str, str]
    latest_charge_id: str | None


@dataclass(frozen=True, slots=True)
class Refund:
    """Money given back; the amount in cents."""

    id: str
    status: str | None
    amount: int


@dataclass(frozen=True, slots=True)
class BalanceTransaction:
    """One movement on the balance at Stripe; amounts in cents, signed."""

    id: str
    type: str
    amount: int
    fee: int
    net: int
    currency: str
    source: str | None
    created_at: datetime


def make_client(
    config: StripeConfig, *, http_client: stripe.HTTPClient | None = None
) -> stripe.StripeClient:
    """The SDK's client with everything explicit that its defaults get wrong for us.

    Args:
        config: Keys and, for a stand-in, its address.
        http_client: Instead of requests with a timeout; tests look at the traffic with it.
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
        http_client=http_client or stripe.RequestsClient(timeout=TIMEOUT_S),
    )


class StripeGateway:
    """The calls that billing makes. Safe to share between threads.

    Every method raises StripeUnavailableError when the outcome is not known or nothing was
    done, and the same call may be repeated; StripeRefusedError when repeating is no use.
    """

    def __init__(
        self, config: StripeConfig, *, http_client: stripe.HTTPClient | None = None
    ) -> None:
        self._webhook_secret = config.webhook_secret
        self._v1 = make_client(config, http_client=http_client).v1

    def create_customer(self, *, account_id: UUID, email: str, idempotency_key: str) -> str:
        """The id of a new customer who stands for an account; the email may be empty."""
        params: Any = {"metadata": {"account_id": str(account_id)}}
        if email:
            params["email"] = email
        with _our_errors():
            customer = self._v1.customers.create(
                params=params, options={"idempotency_key": idempotency_key}
            )
        return customer.id

    def create_checkout_session(
        self,
        *,
        topup_id: UUID,
        customer_id: str,
        amount_cents: int,
        success_url: str,
        cancel_url: str,
        idempotency_key: str,
    ) -> CheckoutSession:
        """Open a payment page for one top-up.

        The top-up's id is written on the page and on the payment, so that either can be
        found again when the answer to this call is lost.

        Args:
            topup_id: Our row.
            customer_id: Who pays, as Stripe calls them.
            amount_cents: What is charged.
            success_url: Where the payer lands; may contain `{CHECKOUT_SESSION_ID}`.
            cancel_url: Where the payer lands who does not pay.
            idempotency_key: At most 255 characters, the same for every try.
        """
        metadata = {"topup_id": str(topup_id)}
        with _our_errors():
            session = self._v1.checkout.sessions.create(
                params={
                    "mode": "payment",
                    "customer": customer_id,
                    "client_reference_id": str(topup_id),
                    "line_items": [
                        {
                            "quantity": 1,
                            "price_data": {
                                "currency": CURRENCY,
                                "unit_amount": amount_cents,
                                "product_data": {"name": PRODUCT_NAME},
                            },
                        }
                    ],
                    "metadata": metadata,
                    "payment_intent_data": {"metadata": metadata},
                    "success_url": success_url,
                    "cancel_url": cancel_url,
                },
                options={"idempotency_key": idempotency_key},
            )
        return _checkout_session(session)

    def retrieve_checkout_session(self, session_id: str) -> CheckoutSession:
        """A payment page as it is now."""
        with _our_errors():
            return _checkout_session(self._v1.checkout.sessions.retrieve(session_id))

    def expire_checkout_session(self, session_id: str, *, idempotency_key: str) -> CheckoutSession:
        """Close an open payment page, so that it cannot be paid any more."""
        with _our_errors():
            session = self._v1.checkout.sessions.expire(
                session_id, options={"idempotency_key": idempotency_key}
            )
        return _checkout_session(session)

    def find_checkout_session(self, *, topup_id: UUID, customer_id: str) -> CheckoutSession | None:
        """The page of a top-up, for when the call that opened it was lost.

        Stripe forgets idempotency keys after a day; after that, look here before opening a
        second page. None means that the customer's latest pages hold no such one.
        """
        with _our_errors():
            sessions = self._v1.checkout.sessions.list(
                params={"customer": customer_id, "limit": 100}
            )
            for session in islice(sessions.auto_paging_iter(), LIST_SIZE_MAX):
                if session.client_reference_id == str(topup_id):
                    return _checkout_session(session)
        return None

    def retrieve_payment_intent(self, payment_intent_id: str) -> PaymentIntent:
        """A payment as it is now."""
        with _our_errors():
            intent = self._v1.payment_intents.retrieve(payment_intent_id)
        return PaymentIntent(
            id=intent.id,
            status=intent.status,
            amount=intent.amount,
            amount_received=intent.amount_received,
            currency=intent.currency,
            customer=_id_of(intent.customer),
            metadata=_texts(intent.metadata),
            latest_charge_id=_id_of(intent.latest_charge),
        )

    def create_refund(
        self,
        *,
        payment_intent_id: str,
        amount_cents: int,
        metadata: Mapping[str, str],
        idempotency_key: str,
    ) -> Refund:
        """Give back part of a payment. How much is unspent, the caller has settled before."""
        with _our_errors():
            refund = self._v1.refunds.create(
                params={
                    "payment_intent": payment_intent_id,
                    "amount": amount_cents,
                    "metadata": dict(metadata),
                },
                options={"idempotency_key": idempotency_key},
            )
        return Refund(id=refund.id, status=refund.status, amount=refund.amount)

    def list_balance_transactions(
        self, *, created_from: datetime, created_until: datetime
    ) -> list[BalanceTransaction]:
        """Every movement of a period, newest first; the end is not part of it.

        Raises:
            StripeRefusedError: More than `LIST_SIZE_MAX`; ask for a shorter period.
        """
        with _our_errors():
            rows = self._v1.balance_transactions.list(
                params={"created": _period(created_from, created_until), "limit": 100}
            )
            found = list(islice(rows.auto_paging_iter(), LIST_SIZE_MAX + 1))
        if len(found) > LIST_SIZE_MAX:
            raise StripeRefusedError("The period holds too many movements for one list.")
        return [_balance_transaction(row) for row in found]

    def list_undelivered_events(
        self, *, types: Sequence[str], created_from: datetime
    ) -> list[StripeEvent]:
        """Events that we have not acknowledged, newest first, at most `LIST_SIZE_MAX`.

        Args:
            types: At most 20 types, which is Stripe's limit.
            created_from: Not older than 30 days; Stripe forgets older ones.
        """
        with _our_errors():
            rows = self._v1.events.list(
                params={
                    "delivery_success": False,
                    "types": list(types),
                    "created": {"gte": int(created_from.timestamp())},
                    "limit": 100,
                }
            )
            found = list(islice(rows.auto_paging_iter(), LIST_SIZE_MAX))
        return [read_event(row.to_dict()) for row in found]

    def verify_webhook(
        self, payload: bytes, signature: str, *, now: datetime | None = None
    ) -> StripeEvent:
        """Read a webhook that Stripe signed within five minutes of now.

        Raises:
            WebhookRefusedError: `params["reason"]` says what is wrong with it.
        """
        return verify_webhook(payload, signature, self._webhook_secret, now or datetime.now(UTC))


@contextmanager
def _our_errors() -> Iterator[None]:
    try:
        yield
    except (stripe.APIConnectionError, stripe.RateLimitError) as error:
        raise StripeUnavailableError(retry_after_s=RETRY_AFTER_S) from error
    except stripe.StripeError as error:
        # 409: the first call with this key still runs. 5xx: nobody knows.
        if (error.http_status or 500) >= 500 or error.http_status == 409:
            raise StripeUnavailableError(retry_after_s=RETRY_AFTER_S) from error
        # Stripe's own sentence can quote keys and addresses; the cause keeps it for the log.
        raise StripeRefusedError(
            f"The payment service refused the request ({error.code or error.http_status}).",
            stripe_code=error.code,
            stripe_request_id=error.request_id,
        ) from error


def _checkout_session(session: stripe.checkout.Session) -> CheckoutSession:
    return CheckoutSession(
        id=session.id,
        url=session.url,
        expires_at=datetime.fromtimestamp(session.expires_at, UTC),
        status=session.status,
        payment_status=session.payment_status,
        amount_total=session.amount_total,
        currency=session.currency,
        customer=_id_of(session.customer),
        metadata=_texts(session.metadata),
        payment_intent_id=_id_of(session.payment_intent),
    )


def _balance_transaction(row: stripe.BalanceTransaction) -> BalanceTransaction:
    return BalanceTransaction(
        id=row.id,
        type=row.type,
        amount=row.amount,
        fee=row.fee,
        net=row.net,
        currency=row.currency,
        source=_id_of(row.source),
        created_at=datetime.fromtimestamp(row.created, UTC),
    )


def _id_of(value: Any) -> str | None:
    """The id of something that is an id, an expanded object, or nothing."""
    return value if value is None or isinstance(value, str) else str(value.id)


def _texts(metadata: Any) -> dict[str, str]:
    if metadata is None:
        return {}
    return dict(metadata.to_dict() if isinstance(metadata, stripe.StripeObject) else metadata)


def _period(start: datetime, end: datetime) -> Any:
    return {"gte": int(start.timestamp()), "lt": int(end.timestamp())}
