"""Statements as files: CSV for programs, PDF for people. The same statement, the same bytes.

Amounts are integers of a billionth of a dollar, and decimal dollars with all nine places:
nothing is rounded.

Source: RFC 4180; ReportLab's `invariant` documents.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import escape

from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle, getSampleStyleSheet
from reportlab.lib.units import mm
from reportlab.platypus import Flowable, LongTable, Paragraph, SimpleDocTemplate, Spacer, TableStyle

from billing.selectors.statement import Statement
from marketplace.core.clock import to_wire
from marketplace.core.errors import InvalidInputError

CSV_TYPE = "text/csv; charset=utf-8"
PDF_TYPE = "application/pdf"

# A page has fifty; more are for programs, which read the CSV.
PDF_LINES_MAX = 5_000

_COLUMNS = (
    *("line", "day", "model", "version", "predictions", "reference"),
    *("amount_nanos", "amount_usd"),
)
_NANOS_PER_DOLLAR = 1_000_000_000
_CELL = ParagraphStyle("cell", fontName="Helvetica", fontSize=8, leading=9)
_PLACES = {
    "creator_reserve": "In reserve",
    "creator_payable": "Payable",
    "payout_in_flight": "On its way",
}


def write_csv(statement: Statement) -> str:
    """One line for each amount; all but the last add up to the last."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, restval="")
    writer.writeheader()
    for line in _list_lines(statement):
        nanos = line["amount_nanos"]
        writer.writerow({**line, "amount_usd": format_exactly(nanos)})
    return text.getvalue()


def _list_lines(statement: Statement) -> Iterator[dict[str, Any]]:
    yield {"line": "opening", "amount_nanos": statement.opening_nanos}
    for row in statement.earned:
        yield {
            "line": "earned",
            "day": row.day,
            "model": row.model,
            "version": row.version,
            "predictions": row.predictions,
            "amount_nanos": row.earned_nanos,
        }
    for one in statement.movements:
        yield {
            "line": one.kind,
            "day": to_wire(one.at)[:10],
            "reference": one.reference,
            "amount_nanos": one.amount_nanos,
        }
    yield {"line": "closing", "amount_nanos": statement.closing_nanos}


def format_exactly(amount_nanos: int) -> str:
    """Dollars with nine places, such as -0.000000001."""
    dollars, nanos = divmod(abs(amount_nanos), _NANOS_PER_DOLLAR)
    return f"{'-' if amount_nanos < 0 else ''}{dollars}.{nanos:09d}"


def write_pdf(statement: Statement) -> bytes:
    """The same lines on pages.

    Raises:
        InvalidInputError: More than `PDF_LINES_MAX` lines.
    """
    if len(statement.earned) + len(statement.movements) > PDF_LINES_MAX:
        detail = f"This month has more than {PDF_LINES_MAX:,} lines; take the CSV."
        raise InvalidInputError(detail)
    file = io.BytesIO()
    title = f"Statement {statement.month:%Y-%m} of {statement.creator.slug}"
    document = SimpleDocTemplate(file, pagesize=A4, title=title, author="Strongroom", invariant=1)
    styles = getSampleStyleSheet()
    story: list[Flowable] = [
        Paragraph(title, styles["Title"]),
        Paragraph(
            "Amounts are in US dollars with nine decimals. Days are UTC's and are those on "
            "which predictions were booked.",
            styles["BodyText"],
        ),
        Spacer(1, 6 * mm),
        _summary(statement),
    ]
    if statement.earned:
        story += [Paragraph("Earned", styles["Heading2"]), _earned(statement)]
    if statement.movements:
        story += [Paragraph("Other movements", styles["Heading2"]), _movements(statement)]
    document.build(story, onFirstPage=_number_page, onLaterPages=_number_page)
    return file.getvalue()


def _summary(statement: Statement) -> LongTable:
    rows: list[list[Any]] = [
        ["", "At the beginning", "At the end"],
        *(
            [
                label,
                format_exactly(statement.opening[kind]),
                format_exactly(statement.closing[kind]),
            ]
            for kind, label in _PLACES.items()
        ),
        [
            "In all",
            format_exactly(statement.opening_nanos),
            format_exactly(statement.closing_nanos),
        ],
    ]
    sums = [
        ["Earned by predictions", "", format_exactly(statement.earned_nanos)],
        ["Other movements", "", format_exactly(statement.moved_nanos)],
    ]
    return _table(rows + sums, [70 * mm, 50 * mm, 50 * mm])


def _earned(statement: Statement) -> LongTable:
    rows: list[list[Any]] = [["Day", "Model", "Version", "Predictions", "Earned"]]
    rows += [
        [
            row.day,
            _wrap(row.model),
            f"{row.version}",
            f"{row.predictions}",
            format_exactly(row.earned_nanos),
        ]
        for row in statement.earned
    ]
    rows.append(["", "Sum", "", "", format_exactly(statement.earned_nanos)])
    return _table(rows, [22 * mm, 70 * mm, 18 * mm, 24 * mm, 40 * mm])


def _movements(statement: Statement) -> LongTable:
    rows: list[list[Any]] = [["Day", "What", "Reference", "Amount"]]
    rows += [
        [to_wire(one.at)[:10], one.label, _wrap(one.reference), format_exactly(one.amount_nanos)]
        for one in statement.movements
    ]
    rows.append(["", "Sum", "", format_exactly(statement.moved_nanos)])
    return _table(rows, [22 * mm, 42 * mm, 70 * mm, 40 * mm])


def _wrap(text: str) -> Paragraph:
    """A cell whose text may need more lines than one."""
    return Paragraph(escape(text), _CELL)


def _table(rows: list[list[Any]], widths: list[float]) -> LongTable:
    style = [
        ("FONTNAME", (0, 0), (-1, 0), "Helvetica-Bold"),
        ("FONTSIZE", (0, 0), (-1, -1), 8),
        ("ALIGN", (-1, 0), (-1, -1), "RIGHT"),
        ("LINEBELOW", (0, 0), (-1, -1), 0.25, colors.lightgrey),
    ]
    return LongTable(rows, colWidths=widths, repeatRows=1, style=TableStyle(style))


def _number_page(canvas: Any, document: Any) -> None:
    canvas.setFont("Helvetica", 8)
    canvas.drawRightString(A4[0] - 18 * mm, 10 * mm, f"Page {document.page}")
