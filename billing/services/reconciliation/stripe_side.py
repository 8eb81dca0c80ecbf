"""Stripe's side of a period: read once, and looked up one by one where that is not enough."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cached_property
from typing import TypeVar

from billing.errors import StripeRefusedError
from billing.services.reconciliation.finding import Period
from billing.services.reconciliation.parts import list_in_parts
from billing.services.stripe_client import get_stripe
from billing.stripe.client import BalanceTransaction, Charge, Dispute, PaymentIntent, Refund
from billing.stripe.connect import ConnectTransfer, TransferReversal
from billing.stripe.invoices import Invoice

Item = TypeVar("Item")

# Objects are made before the money moves, and we hear of it later still: so much earlier than
# the period Stripe is read in one go; what is older is looked up by itself.
MARGIN = timedelta(days=3)
# Between a charge and the moment from which its invoice is paid; banks take days.
PAYING_TIME = timedelta(days=7)
# Movements of a payment that came; their source is a charge.
CHARGE_TYPES = frozenset({"charge", "payment"})


class StripeSide:
    """What Stripe has of a period, and a little before it. Reads only.

    Every method raises StripeUnavailableError while Stripe does not answer.
    """

    def __init__(self, period: Period) -> None:
        self.period = period
        self._since = period.since - MARGIN
        self._looked_up: dict[str, BalanceTransaction | None] = {}
        self._paid_invoices: dict[str, str | None] = {}
        self._reversals: dict[str, list[TransferReversal]] = {}

    @cached_property
    def movements(self) -> dict[str, BalanceTransaction]:
        """Every movement on the balance, by its id."""
        rows = self._list(
            lambda start, end: get_stripe().list_balance_transactions(
                created_from=start, created_until=end
            )
        )
        return {row.id: row for row in rows}

    @cached_property
    def charges(self) -> dict[str, Charge]:
        """Every charge, by its id."""
        rows = self._list(
            lambda start, end: get_stripe().list_charges(created_from=start, created_until=end)
        )
        return {row.id: row for row in rows}

    @cached_property
    def payments(self) -> dict[str, PaymentIntent]:
        """Every payment that was begun, by its id."""
        rows = self._list(
            lambda start, end: get_stripe().list_payment_intents(
                created_from=start, created_until=end
            )
        )
        return {row.id: row for row in rows}

    @cached_property
    def refunds(self) -> dict[str, Refund]:
        """Every refund, by its id."""
        rows = self._list(
            lambda start, end: get_stripe().list_refunds(created_from=start, created_until=end)
        )
        return {row.id: row for row in rows}

    @cached_property
    def disputes(self) -> dict[str, Dispute]:
        """Every dispute, by its id."""
        rows = self._list(
            lambda start, end: get_stripe().list_disputes(created_from=start, created_until=end)
        )
        return {row.id: row for row in rows}

    @cached_property
    def transfers(self) -> dict[str, ConnectTransfer]:
        """Every transfer to a connected account, by its id."""
        rows = self._list(
            lambda start, end: get_stripe().list_transfers(created_from=start, created_until=end)
        )
        return {row.id: row for row in rows}

    @cached_property
    def invoices(self) -> dict[str, Invoice]:
        """Every invoice that was begun, by its id."""
        rows = self._list(
            lambda start, end: get_stripe().list_invoices(created_from=start, created_until=end)
        )
        return {row.id: row for row in rows}

    def find_invoice(self, invoice_id: str) -> Invoice | None:
        """An invoice of any age; None if there is none."""
        if invoice_id not in self.invoices:
            found = _or_none(lambda: get_stripe().retrieve_invoice(invoice_id))
            if found is None:
                return None
            self.invoices[invoice_id] = found
        return self.invoices[invoice_id]

    def find_invoice_of_payment(self, payment_intent_id: str) -> str | None:
        """The invoice that a payment paid; None if it is of none."""
        if payment_intent_id not in self._paid_invoices:
            found = _or_none(lambda: get_stripe().find_invoice_of_payment(payment_intent_id))
            self._paid_invoices[payment_intent_id] = found
        return self._paid_invoices[payment_intent_id]

    def find_charge_of_invoice(self, invoice_id: str) -> Charge | None:
        """The charge that paid an invoice, among those of the time; None if there is none."""
        invoice = self.find_invoice(invoice_id)
        if invoice is None or invoice.paid_at is None:
            return None
        charges = list_in_parts(
            lambda start, end: get_stripe().list_charges(created_from=start, created_until=end),
            invoice.paid_at - PAYING_TIME,
            invoice.paid_at + PAYING_TIME,
        )
        for charge in charges:
            payment_id = charge.payment_intent_id
            if charge.customer == invoice.customer and payment_id is not None:
                self.charges.setdefault(charge.id, charge)
                if self.find_invoice_of_payment(payment_id) == invoice_id:
                    return charge
        return None

    def find_transfer(self, transfer_id: str) -> ConnectTransfer | None:
        """A transfer to a connected account, of any age; None if there is none."""
        if transfer_id not in self.transfers:
            found = _or_none(lambda: get_stripe().retrieve_transfer(transfer_id))
            if found is None:
                return None
            self.transfers[transfer_id] = found
        return self.transfers[transfer_id]

    def list_reversals(self, transfer_id: str) -> list[TransferReversal]:
        """What was taken back of a transfer."""
        if transfer_id not in self._reversals:
            found = _or_none(lambda: get_stripe().list_reversals(transfer_id))
            self._reversals[transfer_id] = found or []
        return self._reversals[transfer_id]

    def find_charge(self, charge_id: str) -> Charge | None:
        """A charge of any age; None if there is none."""
        if charge_id not in self.charges:
            charge = _or_none(lambda: get_stripe().retrieve_charge(charge_id))
            if charge is None:
                return None
            self.charges[charge_id] = charge
        return self.charges[charge_id]

    def find_payment(self, payment_intent_id: str) -> PaymentIntent | None:
        """A payment of any age; None if there is none."""
        if payment_intent_id not in self.payments:
            payment = _or_none(lambda: get_stripe().retrieve_payment_intent(payment_intent_id))
            if payment is None:
                return None
            self.payments[payment_intent_id] = payment
        return self.payments[payment_intent_id]

    def find_refund(self, refund_id: str) -> Refund | None:
        """A refund of any age; None if there is none."""
        if refund_id not in self.refunds:
            refund = _or_none(lambda: get_stripe().retrieve_refund(refund_id))
            if refund is None:
                return None
            self.refunds[refund_id] = refund
        return self.refunds[refund_id]

    def find_dispute(self, dispute_id: str) -> Dispute | None:
        """A dispute of any age; None if there is none."""
        if dispute_id not in self.disputes:
            dispute = _or_none(lambda: get_stripe().retrieve_dispute(dispute_id))
            if dispute is None:
                return None
            self.disputes[dispute_id] = dispute
        return self.disputes[dispute_id]

    def find_movement(self, transaction_id: str | None) -> BalanceTransaction | None:
        """A movement of any age; None if there is none (yet)."""
        if transaction_id is None:
            return None
        if transaction_id in self.movements:
            return self.movements[transaction_id]
        if transaction_id not in self._looked_up:
            self._looked_up[transaction_id] = _or_none(
                lambda: get_stripe().retrieve_balance_transaction(transaction_id)
            )
        return self._looked_up[transaction_id]

    def _list(self, fetch: Callable[[datetime, datetime], list[Item]]) -> list[Item]:
        return list_in_parts(fetch, self._since, self.period.until)


def _or_none(retrieve: Callable[[], Item]) -> Item | None:
    """None where Stripe knows no such object; any other refusal goes on."""
    try:
        return retrieve()
    except StripeRefusedError as error:
        if error.params.get("stripe_code") != "resource_missing":
            raise
        return None
