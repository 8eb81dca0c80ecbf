"""Stripe's side of a period: read once, and looked up one by one where that is not enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import cached_property
from operator import attrgetter
from typing import Protocol, TypeVar

from billing.errors import StripeRefusedError
from billing.services.reconciliation.finding import Period
from billing.services.reconciliation.parts import list_in_parts
from billing.services.stripe_client import get_stripe
from billing.stripe.client import BalanceTransaction, Charge, Dispute, PaymentIntent, Refund
from billing.stripe.connect import ConnectTransfer, TransferReversal
from billing.stripe.invoices import Invoice

Item = TypeVar("Item")


class HasId(Protocol):
    """An object of Stripe's."""

    @property
    def id(self) -> str: ...


Object = TypeVar("Object", bound=HasId)

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
        return self._list(get_stripe().list_balance_transactions)

    @cached_property
    def charges(self) -> dict[str, Charge]:
        """Every charge, by its id."""
        return self._list(get_stripe().list_charges)

    @cached_property
    def payments(self) -> dict[str, PaymentIntent]:
        """Every payment that was begun, by its id."""
        return self._list(get_stripe().list_payment_intents)

    @cached_property
    def refunds(self) -> dict[str, Refund]:
        """Every refund, by its id."""
        return self._list(get_stripe().list_refunds)

    @cached_property
    def disputes(self) -> dict[str, Dispute]:
        """Every dispute, by its id."""
        return self._list(get_stripe().list_disputes)

    @cached_property
    def transfers(self) -> dict[str, ConnectTransfer]:
        """Every transfer to a connected account, by its id."""
        return self._list(get_stripe().list_transfers)

    @cached_property
    def invoices(self) -> dict[str, Invoice]:
        """Every invoice that was begun, by its id."""
        return self._list(get_stripe().list_invoices)

    def find_invoice(self, invoice_id: str) -> Invoice | None:
        """An invoice of any age; None if there is none."""
        return _find(self.invoices, invoice_id, get_stripe().retrieve_invoice)

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
        return _find(self.transfers, transfer_id, get_stripe().retrieve_transfer)

    def list_reversals(self, transfer_id: str) -> list[TransferReversal]:
        """What was taken back of a transfer."""
        if transfer_id not in self._reversals:
            found = _or_none(lambda: get_stripe().list_reversals(transfer_id))
            self._reversals[transfer_id] = found or []
        return self._reversals[transfer_id]

    def find_charge(self, charge_id: str) -> Charge | None:
        """A charge of any age; None if there is none."""
        return _find(self.charges, charge_id, get_stripe().retrieve_charge)

    def find_payment(self, payment_intent_id: str) -> PaymentIntent | None:
        """A payment of any age; None if there is none."""
        return _find(self.payments, payment_intent_id, get_stripe().retrieve_payment_intent)

    def find_refund(self, refund_id: str) -> Refund | None:
        """A refund of any age; None if there is none."""
        return _find(self.refunds, refund_id, get_stripe().retrieve_refund)

    def find_dispute(self, dispute_id: str) -> Dispute | None:
        """A dispute of any age; None if there is none."""
        return _find(self.disputes, dispute_id, get_stripe().retrieve_dispute)

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

    def _list(self, fetch: Callable[..., list[Object]]) -> dict[str, Object]:
        rows = list_in_parts(
            lambda start, end: fetch(created_from=start, created_until=end),
            self._since,
            self.period.until,
        )
        return {row.id: row for row in rows}


def choose_theirs(
    listed: Mapping[str, Object],
    our_keys: Iterable[str | None],
    find: Callable[[str], Object | None],
    period: Period,
    moment_of: Callable[[Object], datetime] = attrgetter("created_at"),
) -> list[Object]:
    """What Stripe has of a period, and what our rows name, whenever that was.

    Args:
        listed: Of the period and a little before it, by id.
        our_keys: Ids at Stripe that our rows of the period have; None and empty for none.
        find: Looks one up that is not listed.
        period: What is compared.
        moment_of: When an object counts; if not when it was made.
    """
    known = dict.fromkeys(key for key in our_keys if key)
    theirs = dict(listed)
    for key in known:
        found = find(key)
        if found is not None:
            theirs[found.id] = found
    return [one for one in theirs.values() if one.id in known or moment_of(one) in period]


def _find(known: dict[str, Item], key: str, retrieve: Callable[[str], Item]) -> Item | None:
    """One of those that are known, else of any age; None if Stripe knows no such object."""
    if key not in known:
        found = _or_none(lambda: retrieve(key))
        if found is None:
            return None
        known[key] = found
    return known[key]


def _or_none(retrieve: Callable[[], Item]) -> Item | None:
    """None where Stripe knows no such object; any other refusal goes on."""
    try:
        return retrieve()
    except StripeRefusedError as error:
        if error.params.get("stripe_code") != "resource_missing":
            raise
        return None
