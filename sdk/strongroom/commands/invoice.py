"""Invoices: fetch the proof of one, and recompute it offline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from strongroom.commands.context import answer_json, as_json, load_web, say
from strongroom.commands.document import save_pieces
from strongroom.commands.receipt import (
    of_receipts,
    pin_key,
    read_chain,
    show_dollars,
    trusted_keys,
)
from strongroom.invoices import InvoiceVerifier, VerifiedInvoice
from strongroom.receipts import ReceiptError

# A receipt in a batch of the largest size takes some 2 KiB.
MAX_LINE_BYTES = 64 * 1024


@click.group()
def invoice() -> None:
    """Get the proof of an invoice: its hourly reports and the receipt of every prediction.

    `strongroom verify-invoice` recomputes the invoice from it without any network.
    """


@invoice.command()
@click.argument("invoice_id")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
def fetch(invoice_id: str, out: Path, force: bool) -> None:
    """Fetch the document of INVOICE_ID, as the page of the invoice shows it."""
    config, profile, web = load_web()
    pin_key(config, profile.web_url, web)
    save_pieces(web.stream_invoice_document(invoice_id), out, force=force, check=lambda _part: None)
    say(f"Wrote {out}. Check it with: strongroom verify-invoice {out}")


@click.command("verify-invoice")
@of_receipts
@click.option("--consumer", help="Id of the account that must be the one that pays.")
@as_json
def verify_invoice(
    files: tuple[Path, ...],
    chain: Path | None,
    consumer: str | None,
    public_key: str | None,
    is_json: bool,
) -> None:
    """Recompute invoices offline from receipts alone, to the nano-dollar.

    Exit code 1 names the first file that is wrong. A prediction may be in one of them, once.
    """
    keys = trusted_keys(next(read_lines(files[0])), public_key)
    verifier = InvoiceVerifier(keys, consumer_id=consumer, hashes=read_chain(chain, keys))
    found = []
    for file in files:
        try:
            found.append(verifier.verify(read_lines(file)))
        except ReceiptError as error:
            raise ReceiptError(error.code, f"{file}: {error.detail}") from None
    if is_json:
        answer_json({"invoices": [_describe(one) for one in found]})
        return
    for one in found:
        say(
            f"Right: invoice {one.number or one.id} is {_cents(one.total_cents)}, of it "
            f"{_cents(one.tax_cents)} tax. Its {one.predictions} predictions in {one.reports} "
            f"reports come to {show_dollars(one.usage_nanos)}; rounded to cents were "
            f"{one.rounding_nanos} nano-dollars."
        )
        if one.reversed_nanos or one.credit_nanos:
            say(
                f"{show_dollars(one.reversed_nanos)} were given back; "
                f"{show_dollars(one.credit_nanos)} are carried to the next invoice."
            )


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The members of a document, one by one.

    Raises:
        ReceiptError: `not_an_invoice`.
    """
    count = 0
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES):
                member = json.loads(line)
                if not isinstance(member, dict):
                    raise ReceiptError("not_an_invoice", f"{path} is no invoice.")
                count += 1
                yield member
    except (ValueError, OSError, RecursionError):
        raise ReceiptError("not_an_invoice", f"{path} is no file of JSON lines.") from None
    if not count:
        raise ReceiptError("not_an_invoice", f"{path} is empty.")


def _describe(one: VerifiedInvoice) -> dict[str, Any]:
    return {name: getattr(one, name) for name in VerifiedInvoice.__dataclass_fields__}


def _cents(cents: int) -> str:
    return f"${cents // 100}.{cents % 100:02d}"
