"""The metered part of Stripe, in memory: what it counts, when it invoices, and how it fails.

For failures at exact moments, which the stand-in as a process cannot be told. It has a clock of
its own, and never looks at ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from billing.errors import StripeRefusedError, StripeUnavailableError
from billing.stripe.invoices import Invoice, InvoiceLine
from billing.stripe.metering import Meter, MeteredPrice, MeterHour
from billing.stripe.subscriptions import Subscription

MONTH = timedelta(days=30)
CHARGE_CENTS_MIN = 50


@dataclass
class MeteredStripe:
    """A stand-in for `StripeGateway`, for one customer or several."""

    now: datetime
    tax_percent: int = 0
    customers: dict[str, str] = field(default_factory=dict)
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    invoices: dict[str, Invoice] = field(default_factory=dict)
    # By identifier: who, when, how many millionths.
    events: dict[str, tuple[str, datetime, int]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    # By the name of a call: how often its answer is lost, after or before it had its effect.
    lost_after: Counter[str] = field(default_factory=Counter)
    lost_before: Counter[str] = field(default_factory=Counter)
    # By customer: cents that wait for the next invoice.
    carried: Counter[str] = field(default_factory=Counter)
    replays: dict[str, Any] = field(default_factory=dict)
    addresses: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def _enter(self, name: str) -> None:
        self.calls[name] += 1
        if self.lost_before[name]:
            self.lost_before[name] -= 1
            raise StripeUnavailableError

    def _leave(self, name: str) -> None:
        if self.lost_after[name]:
            self.lost_after[name] -= 1
            raise StripeUnavailableError

    # --- What billing calls

    def create_customer(self, *, account_id: Any, email: str, idempotency_key: str) -> str:
        self._enter("create_customer")
        return self.customers.setdefault(idempotency_key, f"cus_{len(self.customers) + 1:014d}")

    def update_customer(self, customer_id: str, **values: Any) -> None:
        self._enter("update_customer")
        self.addresses[customer_id] = values

    def ensure_meter(self, *, event_name: str, display_name: str) -> Meter:
        self._enter("ensure_meter")
        return Meter("mtr_test", event_name, "active")

    def ensure_metered_price(self, **_values: Any) -> MeteredPrice:
        self._enter("ensure_metered_price")
        return MeteredPrice("price_test", None, None, Decimal("0.0001"), None)

    def create_subscription(
        self,
        *,
        customer_id: str,
        price_id: str,
        metadata: Mapping[str, str],
        idempotency_key: str,
        is_taxed: bool,
    ) -> Subscription:
        self._enter("create_subscription")
        made = self.replays.get(idempotency_key)
        if made is None:
            made = Subscription(
                id=f"sub_{len(self.subscriptions) + 1}",
                status="active",
                customer=customer_id,
                current_period_start=self.now,
                current_period_end=self.now + MONTH,
                latest_invoice_id=None,
                metadata=dict(metadata),
            )
            self.subscriptions[made.id] = self.replays[idempotency_key] = made
        self._leave("create_subscription")
        return made

    def retrieve_subscription(self, subscription_id: str) -> Subscription:
        self._enter("retrieve_subscription")
        return self.subscriptions[subscription_id]

    def find_subscription(self, *, customer_id: str, key: str, value: str) -> Subscription | None:
        self._enter("find_subscription")
        found = [one for one in self.subscriptions.values() if one.metadata.get(key) == value]
        return found[0] if found else None

    def cancel_subscription(self, subscription_id: str, *, idempotency_key: str) -> Subscription:
        self._enter("cancel_subscription")
        if self.subscriptions[subscription_id].status != "canceled":
            self.end_period(subscription_id, self.now)
            ended = replace(self.subscriptions[subscription_id], status="canceled")
            self.subscriptions[subscription_id] = ended
        self._leave("cancel_subscription")
        return self.subscriptions[subscription_id]

    def send_meter_event(
        self,
        *,
        event_name: str,
        customer_id: str,
        value: int,
        identifier: str,
        occurred_at: datetime,
    ) -> bool:
        self._enter("send_meter_event")
        is_new = identifier not in self.events
        if is_new:
            if not isinstance(value, int) or value <= 0:
                raise StripeRefusedError("The value is no whole number.")
            self.events[identifier] = (customer_id, occurred_at, value)
        self._leave("send_meter_event")
        return is_new

    def summarize_meter(
        self, *, meter_id: str, customer_id: str, start: datetime, end: datetime
    ) -> list[MeterHour]:
        self._enter("summarize_meter")
        return [MeterHour(start, end, self.count(customer_id, start, end))]

    def retrieve_invoice(self, invoice_id: str) -> Invoice:
        self._enter("retrieve_invoice")
        return self.invoices[invoice_id]

    def list_invoices(
        self, *, customer_id: str | None = None, created_from: datetime | None = None, **_: Any
    ) -> list[Invoice]:
        self._enter("list_invoices")
        found = [one for one in self.invoices.values() if one.customer == customer_id]
        return found[::-1]

    def mark_invoice_uncollectible(self, invoice_id: str, *, idempotency_key: str) -> Invoice:
        self._enter("mark_invoice_uncollectible")
        found = self.invoices[invoice_id]
        if found.status != "open":
            raise StripeRefusedError(f"It is {found.status}.")
        self.invoices[invoice_id] = replace(found, status="uncollectible")
        self._leave("mark_invoice_uncollectible")
        return self.invoices[invoice_id]

    # --- What Stripe does by itself

    def count(self, customer_id: str, start: datetime, end: datetime) -> int:
        """Millionths that were counted for a customer in a period."""
        return sum(
            value
            for customer, moment, value in self.events.values()
            if customer == customer_id and start <= moment < end
        )

    def end_period(self, subscription_id: str, at: datetime) -> str:
        """A period ends: a draft of its invoice; its id."""
        found = self.subscriptions[subscription_id]
        invoice_id = f"in_{len(self.invoices) + 1}"
        line = InvoiceLine("il_1", 0, 0, "Predictions", found.current_period_start, at)
        self.invoices[invoice_id] = Invoice(
            id=invoice_id,
            number=None,
            status="draft",
            customer=found.customer,
            subscription_id=subscription_id,
            currency="usd",
            subtotal=0,
            tax=0,
            total=0,
            amount_due=0,
            amount_paid=0,
            amount_remaining=0,
            period_start=found.current_period_start,
            period_end=at,
            due_at=None,
            attempt_count=0,
            hosted_url=None,
            pdf_url=None,
            lines=(line,),
            created_at=at,
            finalized_at=None,
            paid_at=None,
        )
        self.subscriptions[subscription_id] = replace(
            found,
            current_period_start=at,
            current_period_end=at + MONTH,
            latest_invoice_id=invoice_id,
        )
        return invoice_id

    def finalize(self, invoice_id: str, at: datetime, *, wrong_cents: int = 0) -> Invoice:
        """The grace hour is over: what was counted by now is on the invoice, and no more."""
        draft = self.invoices[invoice_id]
        assert draft.status == "draft"
        assert draft.customer is not None
        micro = self.count(draft.customer, draft.period_start, draft.period_end)
        cents = int((Decimal(micro) / 10_000).quantize(Decimal(1), ROUND_HALF_UP)) + wrong_cents
        tax = cents * self.tax_percent // 100
        owed = cents + tax + self.carried[draft.customer]
        due = owed if owed >= CHARGE_CENTS_MIN else 0
        self.carried[draft.customer] = owed - due
        self.invoices[invoice_id] = replace(
            draft,
            number=f"SR-{invoice_id}",
            status="open" if due else "paid",
            subtotal=cents,
            tax=tax,
            total=cents + tax,
            amount_due=due,
            amount_remaining=due,
            finalized_at=at,
            paid_at=None if due else at,
            hosted_url=f"https://invoice.example.com/{invoice_id}",
            pdf_url=f"https://invoice.example.com/{invoice_id}/pdf",
            lines=(replace(draft.lines[0], amount=cents, quantity=micro),),
        )
        return self.invoices[invoice_id]

    def pay(self, invoice_id: str, at: datetime) -> Invoice:
        """The customer pays all of it."""
        found = self.invoices[invoice_id]
        self.invoices[invoice_id] = replace(
            found, status="paid", amount_paid=found.amount_due, amount_remaining=0, paid_at=at
        )
        return self.invoices[invoice_id]
