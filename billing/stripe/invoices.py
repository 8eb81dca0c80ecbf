"""Stripe's invoices for metered use. Amounts in cents."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import stripe

from billing.stripe.calls import PAGE_SIZE, Calls, at, id_of, our_errors, period, read_all, texts

if TYPE_CHECKING:  # Types only; at run time the SDK wants plain dictionaries.
    from stripe.params import CreditNoteCreateParams, InvoiceListParams


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """One position: so many units in a period."""

    id: str
    amount: int
    quantity: int | None
    description: str | None
    period_start: datetime
    period_end: datetime


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice.

    `status` is draft, open, paid, uncollectible or void. A draft still changes, and has no
    number, pages or times of what has not happened to it.
    """

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


@dataclass(frozen=True, slots=True)
class CreditNote:
    """A correction of an invoice; `status` is issued or void."""

    id: str
    number: str
    invoice_id: str | None
    amount: int
    status: str
    created_at: datetime


class InvoiceCalls(Calls):
    """Look at invoices, have them paid, correct them."""

    def retrieve_invoice(self, invoice_id: str) -> Invoice:
        """An invoice as it is now, with all its lines."""
        with our_errors():
            return _invoice(self._v1.invoices.retrieve(invoice_id))

    def list_invoices(
        self,
        *,
        customer_id: str | None = None,
        created_from: datetime | None = None,
        created_until: datetime | None = None,
    ) -> list[Invoice]:
        """Every invoice of a customer or a period or both, newest first."""
        params: InvoiceListParams = {"limit": PAGE_SIZE}
        if customer_id is not None:
            params["customer"] = customer_id
        created = period(created_from, created_until)
        if created:
            params["created"] = created
        with our_errors():
            return [_invoice(row) for row in read_all(self._v1.invoices.list(params=params))]

    def pay_invoice(self, invoice_id: str, *, idempotency_key: str) -> Invoice:
        """Charge the default card for an open invoice now.

        Raises:
            CardDeclinedError: The bank said no; the invoice stays open.
            StripeRefusedError: It is paid already, or there is no card.
        """
        with our_errors():
            invoice = self._v1.invoices.pay(
                invoice_id, {"off_session": True}, {"idempotency_key": idempotency_key}
            )
            return _invoice(invoice)

    def mark_invoice_uncollectible(self, invoice_id: str, *, idempotency_key: str) -> Invoice:
        """Say that nobody is expected to pay an open invoice any more; it can still be paid.

        Raises:
            StripeRefusedError: It is not open: it was paid, perhaps, or is marked already.
        """
        with our_errors():
            invoice = self._v1.invoices.mark_uncollectible(
                invoice_id, {}, {"idempotency_key": idempotency_key}
            )
            return _invoice(invoice)

    def find_invoice_of_payment(self, payment_intent_id: str) -> str | None:
        """The invoice that a payment paid, if it paid one."""
        with our_errors():
            rows = self._v1.invoice_payments.list(
                params={
                    "payment": {"type": "payment_intent", "payment_intent": payment_intent_id},
                    "limit": 1,
                }
            )
        return id_of(rows.data[0].invoice) if rows.data else None

    def create_credit_note(
        self, *, invoice_id: str, amount_cents: int, memo: str, idempotency_key: str
    ) -> CreditNote:
        """Take part of an invoice back.

        Of an open invoice less is due then; after a paid one the next is lower. As the note
        itself can turn the one into the other, the same call again must look for it first.
        """
        with our_errors():
            rows = self._v1.credit_notes.list(params={"invoice": invoice_id, "limit": PAGE_SIZE})
            for row in read_all(rows):
                if texts(row.metadata).get("key") == idempotency_key:
                    return _credit_note(row)
            invoice = self._v1.invoices.retrieve(invoice_id)
            params: CreditNoteCreateParams = {
                "invoice": invoice_id,
                "amount": amount_cents,
                "memo": memo,
                "metadata": {"key": idempotency_key},
            }
            if invoice.status == "paid":
                params["credit_amount"] = amount_cents
            note = self._v1.credit_notes.create(params, {"idempotency_key": idempotency_key})
        return _credit_note(note)


def _credit_note(note: stripe.CreditNote) -> CreditNote:
    return CreditNote(
        id=note.id,
        number=note.number,
        invoice_id=id_of(note.invoice),
        amount=note.amount,
        status=note.status,
        created_at=at(note.created),
    )


def _invoice(invoice: stripe.Invoice) -> Invoice:
    times = invoice.status_transitions
    return Invoice(
        id=invoice.id,
        number=invoice.number,
        status=invoice.status,
        customer=id_of(invoice.customer),
        subscription_id=_subscription_id(invoice),
        currency=invoice.currency,
        subtotal=invoice.subtotal,
        tax=sum(tax.amount for tax in invoice.total_taxes or []),
        total=invoice.total,
        amount_due=invoice.amount_due,
        amount_paid=invoice.amount_paid,
        amount_remaining=invoice.amount_remaining,
        period_start=at(invoice.period_start),
        period_end=at(invoice.period_end),
        due_at=_maybe_at(invoice.due_date),
        attempt_count=invoice.attempt_count,
        hosted_url=_maybe(invoice, "hosted_invoice_url"),
        pdf_url=_maybe(invoice, "invoice_pdf"),
        lines=tuple(_line(line) for line in invoice.lines.auto_paging_iter()),
        created_at=at(invoice.created),
        finalized_at=_maybe_at(times.finalized_at),
        paid_at=_maybe_at(times.paid_at),
    )


def _line(line: stripe.InvoiceLineItem) -> InvoiceLine:
    return InvoiceLine(
        id=line.id,
        amount=line.amount,
        quantity=line.quantity,
        description=line.description,
        period_start=at(line.period.start),
        period_end=at(line.period.end),
    )


def _subscription_id(invoice: stripe.Invoice) -> str | None:
    parent = invoice.parent
    if parent is None or parent.subscription_details is None:
        return None
    return id_of(parent.subscription_details.subscription)


def _maybe_at(moment: int | None) -> datetime | None:
    return None if moment is None else at(moment)


def _maybe(thing: Any, name: str) -> Any:
    # Members that were not sent do not exist on the SDK's objects.
    return getattr(thing, name, None)
