"""Payments: kept cards, charges on them, and refunds. Amounts in cents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import stripe

from billing.stripe.calls import (
    CURRENCY,
    PAGE_SIZE,
    Calls,
    Metadata,
    at,
    id_of,
    our_errors,
    period,
    read_all,
    read_latest,
    texts,
)


@dataclass(frozen=True, slots=True)
class Card:
    """A card that Stripe keeps. The fingerprint is the same for the same number."""

    id: str
    brand: str
    last4: str
    exp_month: int
    exp_year: int
    fingerprint: str | None
    customer: str | None


@dataclass(frozen=True, slots=True)
class PaymentIntent:
    """The payment behind a page, or on a kept card.

    Only `status` "succeeded" means that money came.
    """

    id: str
    status: str
    amount: int
    amount_received: int
    currency: str
    customer: str | None
    metadata: Mapping[str, str]
    latest_charge_id: str | None


@dataclass(frozen=True, slots=True)
class Charge:
    """One attempt to take money.

    `card_funding` is credit, debit, prepaid or unknown; `risk_level` is Stripe's opinion:
    normal, elevated, highest, not_assessed or unknown. Both are None for what is no card.
    """

    id: str
    payment_intent_id: str | None
    customer: str | None
    amount: int
    amount_refunded: int
    is_disputed: bool
    card_fingerprint: str | None
    card_funding: str | None
    risk_level: str | None
    balance_transaction_id: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Refund:
    """Money given back.

    `status` is pending, requires_action, succeeded, failed or canceled; one that succeeded
    can still fail later, and then the money is back on our balance.
    """

    id: str
    status: str | None
    amount: int
    payment_intent_id: str | None
    charge_id: str | None
    metadata: Mapping[str, str]
    failure_reason: str | None
    balance_transaction_id: str | None
    created_at: datetime


class PaymentCalls(Calls):
    """Charge, look up and give back."""

    def list_cards(self, customer_id: str) -> list[Card]:
        """The cards that a customer keeps, newest first."""
        with our_errors():
            rows = self._v1.customers.payment_methods.list(
                customer_id, params={"type": "card", "limit": PAGE_SIZE}
            )
            return [_card(row) for row in read_all(rows)]

    def retrieve_card(self, payment_method_id: str) -> Card:
        """A card as it is now; `customer` is None once it was detached."""
        with our_errors():
            return _card(self._v1.payment_methods.retrieve(payment_method_id))

    def retrieve_saved_card(self, setup_intent_id: str) -> Card | None:
        """The card that a page with mode=setup saved; None while there is none."""
        with our_errors():
            intent = self._v1.setup_intents.retrieve(
                setup_intent_id, params={"expand": ["payment_method"]}
            )
        method = intent.payment_method
        if intent.status != "succeeded" or not isinstance(method, stripe.PaymentMethod):
            return None
        return _card(method)

    def set_default_card(
        self, *, customer_id: str, payment_method_id: str, idempotency_key: str
    ) -> None:
        """Choose the card that invoices are paid by."""
        with our_errors():
            self._v1.customers.update(
                customer_id,
                params={"invoice_settings": {"default_payment_method": payment_method_id}},
                options={"idempotency_key": idempotency_key},
            )

    def detach_card(self, payment_method_id: str, *, idempotency_key: str) -> Card:
        """Forget a card; it can never be charged again."""
        with our_errors():
            method = self._v1.payment_methods.detach(
                payment_method_id, options={"idempotency_key": idempotency_key}
            )
        return _card(method)

    def charge_card(
        self,
        *,
        customer_id: str,
        payment_method_id: str,
        amount_cents: int,
        metadata: Metadata,
        idempotency_key: str,
    ) -> PaymentIntent:
        """Charge a kept card while its owner is away.

        Args:
            customer_id: Who keeps the card.
            payment_method_id: The card.
            amount_cents: At least 50, which is Stripe's limit.
            metadata: By which `find_payment_intent` finds it again.
            idempotency_key: At most 255 characters, the same for every try.

        Raises:
            CardDeclinedError: The bank said no, or wants its owner to confirm
                (`decline_code` authentication_required). The same key gives the same answer
                for ever; another try is another key.
        """
        with our_errors():
            intent = self._v1.payment_intents.create(
                params={
                    "amount": amount_cents,
                    "currency": CURRENCY,
                    "customer": customer_id,
                    "payment_method": payment_method_id,
                    "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
                    "off_session": True,
                    "confirm": True,
                    "metadata": dict(metadata),
                },
                options={"idempotency_key": idempotency_key},
            )
        return _payment_intent(intent)

    def retrieve_payment_intent(self, payment_intent_id: str) -> PaymentIntent:
        """A payment as it is now."""
        with our_errors():
            return _payment_intent(self._v1.payment_intents.retrieve(payment_intent_id))

    def find_payment_intent(
        self, *, customer_id: str, key: str, value: str
    ) -> PaymentIntent | None:
        """The customer's newest payment with this metadata, for a call that was lost."""
        with our_errors():
            rows = self._v1.payment_intents.list(
                params={"customer": customer_id, "limit": PAGE_SIZE}
            )
            for row in read_latest(rows):
                if texts(row.metadata).get(key) == value:
                    return _payment_intent(row)
        return None

    def list_payment_intents(
        self, *, created_from: datetime, created_until: datetime
    ) -> list[PaymentIntent]:
        """Every payment that was begun in a period, newest first; the end is not part of it."""
        with our_errors():
            rows = self._v1.payment_intents.list(
                params={"created": period(created_from, created_until), "limit": PAGE_SIZE}
            )
            return [_payment_intent(row) for row in read_all(rows)]

    def retrieve_charge(self, charge_id: str) -> Charge:
        """A charge as it is now."""
        with our_errors():
            return _charge(self._v1.charges.retrieve(charge_id))

    def list_charges(self, *, created_from: datetime, created_until: datetime) -> list[Charge]:
        """Every charge of a period, also those that failed, newest first."""
        with our_errors():
            rows = self._v1.charges.list(
                params={"created": period(created_from, created_until), "limit": PAGE_SIZE}
            )
            return [_charge(row) for row in read_all(rows)]

    def create_refund(
        self,
        *,
        payment_intent_id: str,
        amount_cents: int,
        metadata: Metadata,
        idempotency_key: str,
    ) -> Refund:
        """Give back part of a payment. How much is unspent, the caller has settled before."""
        with our_errors():
            refund = self._v1.refunds.create(
                params={
                    "payment_intent": payment_intent_id,
                    "amount": amount_cents,
                    "metadata": dict(metadata),
                },
                options={"idempotency_key": idempotency_key},
            )
        return _refund(refund)

    def retrieve_refund(self, refund_id: str) -> Refund:
        """A refund as it is now."""
        with our_errors():
            return _refund(self._v1.refunds.retrieve(refund_id))

    def find_refund(self, *, payment_intent_id: str, key: str, value: str) -> Refund | None:
        """The newest refund of a payment with this metadata, for a call that was lost."""
        with our_errors():
            rows = self._v1.refunds.list(
                params={"payment_intent": payment_intent_id, "limit": PAGE_SIZE}
            )
            for row in read_latest(rows):
                if texts(row.metadata).get(key) == value:
                    return _refund(row)
        return None

    def list_refunds(self, *, created_from: datetime, created_until: datetime) -> list[Refund]:
        """Every refund of a period, newest first."""
        with our_errors():
            rows = self._v1.refunds.list(
                params={"created": period(created_from, created_until), "limit": PAGE_SIZE}
            )
            return [_refund(row) for row in read_all(rows)]


def _card(method: stripe.PaymentMethod) -> Card:
    card = method.card
    if card is None:  # A bank account, which no page of ours takes.
        raise ValueError(f"{method.id} is no card but {method.type}")
    return Card(
        id=method.id,
        brand=card.brand,
        last4=card.last4,
        exp_month=card.exp_month,
        exp_year=card.exp_year,
        fingerprint=card.fingerprint,
        customer=id_of(method.customer),
    )


def _payment_intent(intent: stripe.PaymentIntent) -> PaymentIntent:
    return PaymentIntent(
        id=intent.id,
        status=intent.status,
        amount=intent.amount,
        amount_received=intent.amount_received,
        currency=intent.currency,
        customer=id_of(intent.customer),
        metadata=texts(intent.metadata),
        latest_charge_id=id_of(intent.latest_charge),
    )


def _charge(charge: stripe.Charge) -> Charge:
    details = charge.payment_method_details
    card = getattr(details, "card", None)
    return Charge(
        id=charge.id,
        payment_intent_id=id_of(charge.payment_intent),
        customer=id_of(charge.customer),
        amount=charge.amount,
        amount_refunded=charge.amount_refunded,
        is_disputed=charge.disputed,
        card_fingerprint=None if card is None else card.fingerprint,
        card_funding=None if card is None else card.funding,
        risk_level=None if charge.outcome is None else charge.outcome.risk_level,
        balance_transaction_id=id_of(charge.balance_transaction),
        created_at=at(charge.created),
    )


def _refund(refund: stripe.Refund) -> Refund:
    return Refund(
        id=refund.id,
        status=refund.status,
        amount=refund.amount,
        payment_intent_id=id_of(refund.payment_intent),
        charge_id=id_of(refund.charge),
        metadata=texts(refund.metadata),
        # Members that are not sent at all, the SDK does not make up.
        failure_reason=getattr(refund, "failure_reason", None),
        balance_transaction_id=id_of(refund.balance_transaction),
        created_at=at(refund.created),
    )
