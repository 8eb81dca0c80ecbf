"""Invoices: recompute one, to the nano-dollar, from the receipts of its predictions alone.

A document of an invoice is a file of JSON lines: the invoice, then each hourly report that it
was made of, each followed by the receipts of all predictions in it, and by its corrections: what
was given back of predictions, of this invoice or an earlier one. Each receipt is checked
against its signed batch; what the receipts and corrections of a report come to must be what the
report says, what the reports come to must be what the invoice says, and nothing may be missing,
another account's, or there twice.

Stripe counts in whole millionths of a dollar: a report sends the difference of the sums of all
reports so far, rounded down, so that none is lost between two of them. It cannot count backwards:
what was given back beyond what was used is carried as credit, and nothing is sent until usage has
made up for it, or the credit went to the wallet of a closed account. An invoice is rounded
once for each of its lines, to a cent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from strongroom import receipts
from strongroom.receipts import ReceiptError
from strongroom.sealing.errors import CanonicalError

FORMAT = "strongroom-invoice/2"
NANOS_PER_MICRO = 1_000
MICRO_PER_CENT = 10_000
_AMOUNT_MAX = 1 << 62


@dataclass(frozen=True, slots=True)
class VerifiedInvoice:
    """What a valid document says."""

    id: str
    number: str | None
    account_id: str
    predictions: int
    reports: int
    usage_nanos: int
    # What was given back, and what of it is carried to the next invoice.
    reversed_nanos: int
    credit_nanos: int
    billed_micro: int
    # The lines of the invoice less what was billed: cents have no smaller parts.
    rounding_nanos: int
    subtotal_cents: int
    tax_cents: int
    total_cents: int


@dataclass(slots=True)
class _Report:
    """A report, and what its receipts and corrections came to so far."""

    identifier: str
    predictions: int
    usage_nanos: int
    reversed_nanos: int
    found: int = 0
    found_nanos: int = 0
    corrected_nanos: int = 0


@dataclass(slots=True)
class _Progress:
    """What was read so far of one document."""

    reports: int = 0
    predictions: int = 0
    usage_nanos: int = 0
    reversed_nanos: int = 0
    billed_micro: int = 0
    number: int | None = None
    credit_nanos: int = 0
    identifiers: set[str] = field(default_factory=set)
    report: _Report | None = None


class InvoiceVerifier:
    """Checks documents of invoices; a prediction or correction in two of them is noticed.

    Sums and credit that one carries to the next are compared where both are given.

    Args:
        keys: Raw Ed25519 keys of receipts that are trusted.
        consumer_id: The account that must be the one that pays; else the one each invoice names.
        hashes: The published chain, by number; every receipt must be in it.
    """

    def __init__(
        self,
        keys: Sequence[bytes],
        *,
        consumer_id: str | None = None,
        hashes: Mapping[int, str] | None = None,
    ) -> None:
        self._keys = keys
        self._consumer_id = consumer_id
        self._hashes = hashes
        # By prediction: what it cost, and what was given back of it.
        self._charges: dict[str, int] = {}
        self._corrections: dict[str, int] = {}
        # By account and number of a report: total and credit before it, and after it.
        self._before: dict[tuple[str, int], tuple[int, int]] = {}
        self._after: dict[tuple[str, int], tuple[int, int]] = {}

    def verify(self, members: Iterable[Mapping[str, Any]]) -> VerifiedInvoice:
        """Check a document, member by member; it is never held as a whole.

        Raises:
            ReceiptError: `not_an_invoice`, `other_consumer`, `receipt_missing`,
                `receipt_doubled`, `report_doubled`, `report_outside`, `report_missing`,
                `report_differs`, `value_differs`, `invoice_differs`,
                `correction_doubled`, `correction_too_large`, and what a receipt is
                refused for.
        """
        try:
            return self._verify(iter(members))
        except (KeyError, TypeError, ValueError, AttributeError, CanonicalError) as error:
            detail = f"The file is no invoice ({type(error).__name__})."
            raise ReceiptError("not_an_invoice", detail) from None

    def _verify(self, members: Iterator[Mapping[str, Any]]) -> VerifiedInvoice:
        invoice = next(members, None)
        if invoice is None or invoice["type"] != "invoice" or invoice["format"] != FORMAT:
            raise ReceiptError("not_an_invoice", f"The file does not begin with a {FORMAT}.")
        if self._consumer_id not in (None, invoice["account_id"]):
            raise ReceiptError("other_consumer", "The invoice is another account's.")
        progress = _Progress()
        for member in members:
            match member["type"]:
                case "report":
                    self._begin_report(progress, invoice, member)
                case "receipt":
                    self._count_receipt(progress, invoice, member)
                case "correction":
                    self._count_correction(progress, member)
                case _:
                    raise ValueError("unknown member")
        _end_report(progress)
        return _conclude(progress, invoice)

    def _begin_report(
        self, progress: _Progress, invoice: Mapping[str, Any], member: Mapping[str, Any]
    ) -> None:
        _end_report(progress)
        identifier = member["identifier"]
        if identifier in progress.identifiers:
            raise ReceiptError("report_doubled", f"The report {identifier} is there twice.")
        progress.identifiers.add(identifier)
        # Of one form, all in UTC: they compare as they are.
        if not invoice["period_start"] <= member["counted_at"] < invoice["period_end"]:
            detail = f"The report {identifier} is not of the period of the invoice."
            raise ReceiptError("report_outside", detail)
        number = _read_amount(member["number"])
        usage, total = _read_amount(member["usage_nanos"]), _read_amount(member["total_nanos"])
        reversed_nanos = _read_amount(member["reversed_nanos"])
        returned_nanos = _read_amount(member["returned_nanos"])
        credit = _read_amount(member["credit_nanos"])
        credit_before = _read_amount(member["credit_before_nanos"])
        net = total - credit
        before = net - usage + reversed_nanos - returned_nanos + credit_before
        account_id = invoice["account_id"]
        self._before[account_id, number] = before, credit_before
        self._after[account_id, number] = total, credit
        self._follow(progress, account_id, number)
        if total != max(before, net):
            detail = f"The report {identifier} does not take off what was given back."
            raise ReceiptError("report_differs", detail)
        value = total // NANOS_PER_MICRO - before // NANOS_PER_MICRO
        if _read_amount(member["value_micro"]) != value:
            detail = f"The report {identifier} sent {member['value_micro']}; it comes to {value}."
            raise ReceiptError("value_differs", detail)
        progress.number, progress.credit_nanos = number, credit
        progress.reports += 1
        progress.usage_nanos += usage
        progress.reversed_nanos += reversed_nanos
        progress.billed_micro += value
        predictions = _read_amount(member["predictions"])
        progress.report = _Report(identifier, predictions, usage, reversed_nanos)

    def _follow(self, progress: _Progress, account_id: str, number: int) -> None:
        """That a report goes on where the one before it ended, here or in another document."""
        before, after = self._before[account_id, number], self._after[account_id, number]
        earlier = self._after.get((account_id, number - 1), before)
        later = self._before.get((account_id, number + 1), after)
        begun = (0, 0) if number == 1 else before
        is_next = progress.number in (None, number - 1) and min(before) >= 0
        if not is_next or not before == begun == earlier or later != after:
            detail = f"The report {number} does not go on where the one before it ended."
            raise ReceiptError("report_missing", detail)

    def _count_receipt(
        self, progress: _Progress, invoice: Mapping[str, Any], member: Mapping[str, Any]
    ) -> None:
        report = progress.report
        if report is None:
            raise ValueError("a receipt before the first report")
        found = receipts.verify(member, self._keys, consumer_id=invoice["account_id"])
        if self._hashes is not None:
            receipts.check_published(member, self._hashes)
        if found.prediction in self._charges:
            detail = f"The prediction {found.prediction} is there twice."
            raise ReceiptError("receipt_doubled", detail)
        self._charges[found.prediction] = found.gross_nanos
        self._check_correction(found.prediction)
        report.found += 1
        report.found_nanos += found.gross_nanos
        progress.predictions += 1

    def _count_correction(self, progress: _Progress, member: Mapping[str, Any]) -> None:
        report, prediction = progress.report, member["prediction"]
        if report is None or not isinstance(prediction, str):
            raise ValueError("a correction of nothing")
        if prediction in self._corrections:
            detail = f"The prediction {prediction} was given back twice."
            raise ReceiptError("correction_doubled", detail)
        self._corrections[prediction] = _read_amount(member["amount_nanos"])
        self._check_correction(prediction)
        report.corrected_nanos += self._corrections[prediction]

    def _check_correction(self, prediction: str) -> None:
        """What went back of a prediction is at most what it cost, where its receipt is given."""
        cost = self._charges.get(prediction)
        given_back = self._corrections.get(prediction, 0)
        if cost is not None and given_back > cost:
            detail = f"{given_back} nano-dollars of {prediction} were given back; it cost {cost}."
            raise ReceiptError("correction_too_large", detail)


def _end_report(progress: _Progress) -> None:
    report = progress.report
    if report is None:
        return
    if report.found < report.predictions:
        detail = (
            f"The report {report.identifier} is of {report.predictions} predictions; there are "
            f"receipts of {report.found}."
        )
        raise ReceiptError("receipt_missing", detail)
    if (report.found, report.found_nanos) != (report.predictions, report.usage_nanos):
        detail = (
            f"The report {report.identifier} says {report.usage_nanos} nano-dollars for "
            f"{report.predictions} predictions; its receipts come to {report.found_nanos} "
            f"for {report.found}."
        )
        raise ReceiptError("report_differs", detail)
    if report.corrected_nanos != report.reversed_nanos:
        detail = (
            f"The report {report.identifier} says that {report.reversed_nanos} nano-dollars were "
            f"given back; its corrections come to {report.corrected_nanos}."
        )
        raise ReceiptError("report_differs", detail)


def _conclude(progress: _Progress, invoice: Mapping[str, Any]) -> VerifiedInvoice:
    if progress.reports != _read_amount(invoice["reports"]):
        detail = f"The invoice is of {invoice['reports']} reports; there are {progress.reports}."
        raise ReceiptError("report_missing", detail)
    subtotal = _read_amount(invoice["subtotal_cents"])
    tax, total = _read_amount(invoice["tax_cents"]), _read_amount(invoice["total_cents"])
    if total != subtotal + tax:
        detail = f"The total is {total} cents; lines and tax come to {subtotal + tax}."
        raise ReceiptError("invoice_differs", detail)
    difference_micro = subtotal * MICRO_PER_CENT - progress.billed_micro
    if abs(difference_micro) > MICRO_PER_CENT * max(1, _read_amount(invoice["lines"])):
        detail = (
            f"The invoice says {subtotal} cents before tax; its reports come to "
            f"{progress.billed_micro} millionths of a dollar."
        )
        raise ReceiptError("invoice_differs", detail)
    return VerifiedInvoice(
        id=invoice["id"],
        number=invoice["number"],
        account_id=invoice["account_id"],
        predictions=progress.predictions,
        reports=progress.reports,
        usage_nanos=progress.usage_nanos,
        reversed_nanos=progress.reversed_nanos,
        credit_nanos=progress.credit_nanos,
        billed_micro=progress.billed_micro,
        rounding_nanos=difference_micro * NANOS_PER_MICRO,
        subtotal_cents=subtotal,
        tax_cents=tax,
        total_cents=total,
    )


def _read_amount(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _AMOUNT_MAX:
        raise ValueError("no amount")
    return value
