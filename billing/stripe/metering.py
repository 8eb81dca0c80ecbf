"""What Stripe answers about metered billing. Amounts in cents, times aware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Meter:
    """What adds up usage."""

    id: str
    event_name: str
    status: str


@dataclass(frozen=True, slots=True)
class MeteredPrice:
    """What one unit of a meter costs."""

    id: str


@dataclass(frozen=True, slots=True)
class MeterHour:
    """What a customer used in an hour."""

    start: datetime
    end: datetime
    value: int


@dataclass(frozen=True, slots=True)
class Subscription:
    """That a customer pays for what a meter counts."""

    id: str
    status: str
    customer: str | None
    current_period_start: datetime
    current_period_end: datetime
    latest_invoice_id: str | None
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """A line of an invoice."""

    id: str
    amount: int
    quantity: int | None
    description: str | None
    period_start: datetime
    period_end: datetime


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice; `status` is draft, open, paid, void or uncollectible."""

    id: str
    number: str | None
    status: str | None
    customer: str | None
    subscription_id: str | None
    currency: str
    subtotal: int
    tax: int
    total: int
    amount_due: int
    amount_paid: int
    amount_remaining: int
    period_start: datetime
    period_end: datetime
    due_at: datetime | None
    attempt_count: int
    hosted_url: str | None
    pdf_url: str | None
    lines: tuple[InvoiceLine, ...]
    created_at: datetime
    finalized_at: datetime | None
    paid_at: datetime | None
