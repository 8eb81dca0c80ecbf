"""Read invoices, what stands behind them, and the document that proves them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import Count, F, QuerySet, Sum
from django.db.models.functions import TruncDate

from billing.errors import InvoiceNotFinalError, InvoiceTooLargeError
from billing.models import Adjustment, Invoice, MeterReport, ReceiptLeaf, UsageEvent, UsageReversal
from billing.selectors.meter import list_reports_of
from billing.selectors.receipt import stream_receipts
from marketplace.core import ids
from marketplace.core.clock import to_wire
from marketplace.core.receipt import ReceiptPendingError
from marketplace.models import Account
from marketplace.selectors.access import Actor, list_accounts, require_right
from marketplace.selectors.found import get_one
from strongroom import invoices as documents

# More is asked for in parts, as usage by days; it would take minutes to write and to check.
PREDICTIONS_MAX = 1_000_000
LINES_MAX = 1_100
# A prediction's id is of the gateway's clock; it is not further off than this, either way.
_SKEW_MAX = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """What one model came to on one day."""

    day: str
    model: str
    predictions: int
    gross_nanos: int


def list_invoices(account: Account) -> QuerySet[Invoice]:
    """An account's invoices, newest first."""
    return Invoice.objects.filter(account=account).order_by("-created_at", "-pk")


def access_invoice(actor: Actor, invoice_id: UUID) -> Invoice:
    """An invoice of one of the actor's accounts; platform admins may read all."""
    invoices = Invoice.objects.select_related("account")
    if not actor.is_admin:
        invoices = invoices.filter(account__in=list_accounts(actor))
    invoice = get_one(invoices.filter(pk=invoice_id), "No such invoice.")
    if not actor.is_admin:
        require_right(actor, invoice.account, "read")
    return invoice


def find_carried_cents(account_id: UUID, before: datetime | None = None) -> int:
    """What Stripe carries to the next invoice of an account: too little to be charged by itself.

    Args:
        account_id: Whose.
        before: As it was when an invoice of this moment became final.
    """
    final = Invoice.objects.filter(account_id=account_id, finalized_at__isnull=False)
    if before is not None:
        final = final.filter(finalized_at__lt=before)
    sums = final.exclude(state=Invoice.State.VOID).aggregate(
        total=Sum("total_cents"), due=Sum("due_cents")
    )
    return (sums["total"] or 0) - (sums["due"] or 0)


def find_write_off(invoice: Invoice) -> Adjustment | None:
    """What was written off of it; None if nothing was."""
    if not invoice.written_off_nanos:
        return None
    return Adjustment.objects.filter(invoice=invoice, state=Adjustment.State.POSTED).first()


def list_invoice_reports(invoice: Invoice) -> QuerySet[MeterReport]:
    """The reports that its period holds, in their order; what was too little to send, too."""
    states = (MeterReport.State.OK, MeterReport.State.NOTHING)
    return list_reports_of(
        invoice.account_id, invoice.period_start, invoice.period_end, states=states
    )


def list_invoice_usage(invoice: Invoice) -> QuerySet[UsageEvent]:
    """The predictions behind it, oldest first."""
    return _list_events(invoice, list(list_invoice_reports(invoice))).select_related(
        "version__model__account"
    )


def list_invoice_lines(invoice: Invoice) -> list[InvoiceLine]:
    """By day (UTC) and model, newest first."""
    events = _list_events(invoice, list(list_invoice_reports(invoice)))
    rows = (
        events.order_by()
        .values(
            day=TruncDate("occurred_at", tzinfo=UTC),
            owner=F("version__model__account__slug"),
            name=F("version__model__name"),
        )
        # Not by the name of the column: that would be summed again below.
        .annotate(predictions=Count("pk"), gross=Sum("gross_nanos"))
        .order_by("-day", "owner", "name")
    )
    return [
        InvoiceLine(
            day=row["day"].isoformat(),
            model=f"{row['owner']}/{row['name']}",
            predictions=row["predictions"],
            gross_nanos=row["gross"],
        )
        for row in rows[:LINES_MAX]
    ]


def describe_invoice(invoice: Invoice) -> dict[str, Any]:
    """An invoice on the wire."""
    return {
        "id": str(invoice.pk),
        "account": invoice.account.slug,
        "number": invoice.number or None,
        "state": invoice.state,
        "currency": invoice.currency,
        "subtotal_cents": invoice.subtotal_cents,
        "tax_cents": invoice.tax_cents,
        "total_cents": invoice.total_cents,
        "due_cents": invoice.due_cents,
        "paid_cents": invoice.paid_cents,
        "written_off_nanos": invoice.written_off_nanos,
        "period_start": to_wire(invoice.period_start),
        "period_end": to_wire(invoice.period_end),
        "created_at": to_wire(invoice.created_at),
        "due_at": to_wire(invoice.due_at) if invoice.due_at else None,
        "paid_at": to_wire(invoice.paid_at) if invoice.paid_at else None,
        "hosted_url": invoice.hosted_url or None,
        "pdf_url": invoice.pdf_url or None,
    }


def check_document(invoice: Invoice) -> None:
    """Whether the document of an invoice can be written now.

    Raises:
        InvoiceNotFinalError: It is a draft.
        InvoiceTooLargeError: It has more than `PREDICTIONS_MAX` predictions.
        ReceiptPendingError: Some of its predictions are not sealed yet.
    """
    if invoice.state == Invoice.State.DRAFT:
        raise InvoiceNotFinalError
    reports = list(list_invoice_reports(invoice))
    count = sum(report.predictions for report in reports)
    if count > PREDICTIONS_MAX:
        raise InvoiceTooLargeError(f"It has {count:,} predictions, of {PREDICTIONS_MAX:,}.")
    events = _list_events(invoice, reports)
    sealed = ReceiptLeaf.objects.filter(prediction_id__in=events.values("pk")).count()
    if sealed < count:
        raise ReceiptPendingError


def stream_document(invoice: Invoice) -> Iterator[dict[str, Any]]:
    """What proves an invoice, member by member: itself, then each report with what is in it.

    That are the receipts of its predictions, and its corrections: what was given back.

    Args:
        invoice: One that `check_document` has passed.
    """
    reports = list(list_invoice_reports(invoice))
    yield {
        "type": "invoice",
        "format": documents.FORMAT,
        "platform": settings.WEB_URL,
        "account_id": str(invoice.account_id),
        "lines": len(invoice.lines),
        "reports": len(reports),
        **describe_invoice(invoice),
    }
    for report in reports:
        yield {
            "type": "report",
            "identifier": report.identifier,
            "number": report.number,
            "hour": to_wire(report.hour),
            "counted_at": to_wire(report.counted_at),
            "predictions": report.predictions,
            "usage_nanos": report.usage_nanos,
            "reversed_nanos": report.reversed_nanos,
            "returned_nanos": report.returned_nanos,
            "total_nanos": report.total_nanos,
            "credit_nanos": report.credit_nanos,
            "credit_before_nanos": _find_credit_before(report),
            "value_micro": report.value_micro,
        }
        for receipt in _stream_receipts(invoice, report):
            yield {"type": "receipt", **receipt}
        for reversal in UsageReversal.objects.filter(transfer__metered__report=report).order_by(
            "prediction_id"
        ):
            yield {
                "type": "correction",
                "prediction": ids.to_public(reversal.prediction_id),
                "amount_nanos": reversal.gross_nanos,
                "given_back_at": to_wire(reversal.created_at),
            }


def _find_credit_before(report: MeterReport) -> int:
    before = MeterReport.objects.filter(account_id=report.account_id, number=report.number - 1)
    return before.values_list("credit_nanos", flat=True).first() or 0


def _list_events(invoice: Invoice, reports: list[MeterReport]) -> QuerySet[UsageEvent]:
    events = UsageEvent.objects.filter(
        account_id=invoice.account_id,
        gross_nanos__gt=0,
        transfer__metered__report__in=[report.pk for report in reports],
    )
    if reports:
        # Ids begin with the time: they find the days by the index of the account.
        hours = [report.hour for report in reports]
        events = events.filter(
            prediction_id__gte=ids.lowest_id(min(hours) - _SKEW_MAX),
            prediction_id__lt=ids.lowest_id(max(hours) + _SKEW_MAX),
        )
    return events.order_by("prediction_id")


def _stream_receipts(invoice: Invoice, report: MeterReport) -> Iterator[dict[str, Any]]:
    yield from stream_receipts(_list_events(invoice, [report]).values_list("pk", flat=True))
