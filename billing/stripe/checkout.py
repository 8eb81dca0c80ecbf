"""Payment pages: a top-up, or a card saved without a payment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import stripe

from billing.stripe.calls import (
    CURRENCY,
    PAGE_SIZE,
    Calls,
    at,
    id_of,
    our_errors,
    read_latest,
    texts,
)

if TYPE_CHECKING:  # Types only; at run time the SDK wants plain dictionaries.
    from stripe.params.checkout import (
        SessionCreateParams,
        SessionCreateParamsLineItemPriceData,
        SessionCreateParamsPaymentIntentData,
    )

PRODUCT_NAME = "Prediction credit"


@dataclass(frozen=True, slots=True)
class CheckoutSession:
    """A payment page.

    `status` is open, complete or expired; `payment_status` is paid, unpaid or
    no_payment_required. Only "paid" means that money came. `mode` is payment or setup.
    Amounts are in cents: `amount_total` is `amount_subtotal` and, on top, `amount_tax`; all
    are None for a page that saves a card, and the tax is not known before it is paid.
    """

    id: str
    url: str | None
    expires_at: datetime
    status: str | None
    payment_status: str
    mode: str
    amount_subtotal: int | None
    amount_tax: int | None
    amount_total: int | None
    currency: str | None
    customer: str | None
    metadata: Mapping[str, str]
    payment_intent_id: str | None
    setup_intent_id: str | None


class CheckoutCalls(Calls):
    """Open, look at and close payment pages."""

    def create_checkout_session(
        self,
        *,
        topup_id: UUID,
        customer_id: str,
        amount_cents: int,
        success_url: str,
        cancel_url: str,
        idempotency_key: str,
        save_card: bool = False,
        is_taxed: bool = False,
    ) -> CheckoutSession:
        """Open a payment page for one top-up.

        The top-up's id is written on the page and on the payment, so that either can be
        found again when the answer to this call is lost.

        Args:
            topup_id: Our row.
            customer_id: Who pays, as Stripe calls them.
            amount_cents: What is charged, without tax.
            success_url: Where the payer lands; may contain `{CHECKOUT_SESSION_ID}`.
            cancel_url: Where the payer lands who does not pay.
            idempotency_key: At most 255 characters, the same for every try.
            save_card: Keep the card for `charge_card`.
            is_taxed: Have Stripe ask for the address and add the tax that is due there.
        """
        metadata = {"topup_id": str(topup_id)}
        price: SessionCreateParamsLineItemPriceData = {
            "currency": CURRENCY,
            "unit_amount": amount_cents,
            "product_data": {"name": PRODUCT_NAME},
        }
        payment: SessionCreateParamsPaymentIntentData = {"metadata": metadata}
        if save_card:
            payment["setup_future_usage"] = "off_session"
        if is_taxed:
            price["tax_behavior"] = "exclusive"
        params: SessionCreateParams = {
            "mode": "payment",
            "customer": customer_id,
            "client_reference_id": str(topup_id),
            "line_items": [{"quantity": 1, "price_data": price}],
            "metadata": metadata,
            "payment_intent_data": payment,
            "success_url": success_url,
            "cancel_url": cancel_url,
        }
        if is_taxed:
            params["automatic_tax"] = {"enabled": True}
            params["billing_address_collection"] = "required"
            params["customer_update"] = {"address": "auto"}
        with our_errors():
            session = self._v1.checkout.sessions.create(
                params=params, options={"idempotency_key": idempotency_key}
            )
        return _checkout_session(session)

    def create_setup_session(
        self,
        *,
        account_id: UUID,
        customer_id: str,
        success_url: str,
        cancel_url: str,
        idempotency_key: str,
    ) -> CheckoutSession:
        """Open a page that saves a card and charges nothing."""
        metadata = {"account_id": str(account_id)}
        with our_errors():
            session = self._v1.checkout.sessions.create(
                params={
                    "mode": "setup",
                    "currency": CURRENCY,
                    "customer": customer_id,
                    "client_reference_id": str(account_id),
                    "metadata": metadata,
                    "setup_intent_data": {"metadata": metadata},
                    "success_url": success_url,
                    "cancel_url": cancel_url,
                },
                options={"idempotency_key": idempotency_key},
            )
        return _checkout_session(session)

    def retrieve_checkout_session(self, session_id: str) -> CheckoutSession:
        """A payment page as it is now."""
        with our_errors():
            return _checkout_session(self._v1.checkout.sessions.retrieve(session_id))

    def expire_checkout_session(self, session_id: str, *, idempotency_key: str) -> CheckoutSession:
        """Close an open payment page, so that it cannot be paid any more."""
        with our_errors():
            session = self._v1.checkout.sessions.expire(
                session_id, options={"idempotency_key": idempotency_key}
            )
        return _checkout_session(session)

    def find_checkout_session(self, *, topup_id: UUID, customer_id: str) -> CheckoutSession | None:
        """The page of a top-up, for when the call that opened it was lost.

        Stripe forgets idempotency keys after a day; after that, look here before opening a
        second page. None means that the customer's latest pages hold no such one.
        """
        with our_errors():
            sessions = self._v1.checkout.sessions.list(
                params={"customer": customer_id, "limit": PAGE_SIZE}
            )
            for session in read_latest(sessions):
                if session.client_reference_id == str(topup_id):
                    return _checkout_session(session)
        return None


def _checkout_session(session: stripe.checkout.Session) -> CheckoutSession:
    totals = session.total_details
    return CheckoutSession(
        id=session.id,
        url=session.url,
        expires_at=at(session.expires_at),
        status=session.status,
        payment_status=session.payment_status,
        mode=session.mode,
        amount_subtotal=session.amount_subtotal,
        amount_tax=None if totals is None else totals.amount_tax,
        amount_total=session.amount_total,
        currency=session.currency,
        customer=id_of(session.customer),
        metadata=texts(session.metadata),
        payment_intent_id=id_of(session.payment_intent),
        setup_intent_id=id_of(session.setup_intent),
    )
