"""Payouts: fetch the document of one, and recompute its amount offline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from strongroom import receipts
from strongroom.commands.context import (
    answer_json,
    answer_table,
    as_json,
    choose_account,
    load_web,
    say,
)
from strongroom.commands.document import save_pieces
from strongroom.commands.receipt import (
    of_receipts,
    pin_key,
    read_chain,
    show_dollars,
    trusted_keys,
)
from strongroom.payouts import PayoutError, PayoutReader, VerifiedPayout, read_lines

_HEADER_BYTES_MAX = 64 * 1024


@click.group()
def payout() -> None:
    """See what you were paid, and fetch what proves the amounts.

    `fetch` writes the document of one payout: every receipt of every prediction that it pays
    for. `strongroom verify-payout` recomputes the amount from it without any network.
    """


@payout.command("list")
@click.option("--account", help="Whose; else the account of the login.")
@as_json
def list_payouts(account: str | None, is_json: bool) -> None:
    """Show payouts, newest first, and what stands in the way of the next one."""
    _config, profile, web = load_web()
    answer = web.list_payouts(choose_account(profile, account))
    if is_json:
        answer_json(answer)
        return
    table = Table("Payout", "When", "State", "Amount", "Note")
    for one in answer["results"]:
        amount = f"${one['amount_cents'] // 100}.{one['amount_cents'] % 100:02d}"
        table.add_row(one["id"], one["created_at"][:10], one["state"], amount, one["reason"])
    answer_table(table)
    if answer["obstacle"]:
        say(f"No payout for now: {answer['obstacle']['detail']}")


@payout.command()
@click.argument("payout_id", metavar="PAYOUT")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="File to write, of JSON lines."
)
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
def fetch(payout_id: str, out: Path, force: bool) -> None:
    """Fetch the document of PAYOUT, checked before it gets its name."""
    config, profile, web = load_web()
    keys = pin_key(config, profile.web_url, web)
    found: list[VerifiedPayout] = []

    def check(part: Path) -> None:
        found.append(_verify(PayoutReader(keys), part))
        if found[0].payout != payout_id:
            raise PayoutError("other_payout", "The document is of another payout.")

    save_pieces(web.read_payout_document(payout_id), out, force=force, check=check)
    say(f"Wrote the document to {out}. {_describe(found[0])}")


@click.command("verify-payout")
@of_receipts
@as_json
def verify_payout(
    files: tuple[Path, ...], chain: Path | None, public_key: str | None, is_json: bool
) -> None:
    """Recompute payouts offline from their receipts; exit code 1 says what differs.

    Several files of one creator, the oldest first, must follow upon each other: what one
    leaves, the next begins with, and no prediction is in two of them.
    """
    keys = trusted_keys(_read_header(files[0]), public_key)
    reader = PayoutReader(keys, read_chain(chain, keys))
    found = [_verify(reader, file) for file in files]
    if is_json:
        answer_json({"payouts": [_as_json(one) for one in found]})
        return
    for one in found:
        say(f"Right: {_describe(one)}")


def _verify(reader: PayoutReader, path: Path) -> VerifiedPayout:
    with path.open("rb") as file:
        try:
            return reader.verify(read_lines(file))
        except (PayoutError, receipts.ReceiptError) as error:
            raise type(error)(error.code, f"{path}: {error.detail}") from None


def _read_header(path: Path) -> dict[str, Any]:
    """The first line, only to know whose keys are asked for; it is checked later."""
    with path.open("rb") as file:
        line = file.readline(_HEADER_BYTES_MAX)
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise PayoutError("not_a_payout", f"{path} is no document of a payout.")
    return found


def _describe(found: VerifiedPayout) -> str:
    parts: Sequence[tuple[str, int]] = (
        ("carried forward", found.opening_nanos),
        ("corrections", found.corrected_nanos),
        ("other movements", found.moved_nanos),
    )
    rest = "".join(f", {name} {show_dollars(nanos)}" for name, nanos in parts if nanos)
    cents = found.amount_cents
    return (
        f"payout {found.payout} is ${cents // 100}.{cents % 100:02d}: {found.predictions} receipts "
        f"prove {show_dollars(found.earned_nanos)}{rest}; {show_dollars(found.closing_nanos)} "
        "are left."
    )


def _as_json(found: VerifiedPayout) -> dict[str, Any]:
    return {
        "payout": found.payout,
        "previous": found.previous,
        "amount_cents": found.amount_cents,
        "predictions": found.predictions,
        "opening_nanos": found.opening_nanos,
        "earned_nanos": found.earned_nanos,
        "corrected_nanos": found.corrected_nanos,
        "moved_nanos": found.moved_nanos,
        "closing_nanos": found.closing_nanos,
    }
