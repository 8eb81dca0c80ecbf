"""Receipts: fetch the proof that a prediction was counted, and check it offline."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from strongroom import receipts
from strongroom.client import WebClient
from strongroom.commands.context import answer_json, as_json, load_web, say
from strongroom.commands.document import read_document, write_document
from strongroom.config import ConfigFolder, Pin
from strongroom.errors import StrongroomError
from strongroom.receipts import ReceiptError, Verified
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64

# A hundred thousand batches of the chain, which is four hundred million charges.
MAX_FILE_BYTES = 64 * 1024 * 1024
_NANOS_PER_DOLLAR = 1_000_000_000
Command = TypeVar("Command", bound=Callable[..., Any])


class ReceiptKeyError(StrongroomError):
    """The platform's receipt key is not known here."""


@click.group()
def receipt() -> None:
    """Get proof that predictions were counted, once each, at their price.

    The platform seals all charges in batches, signs each batch, and names in it the one
    before. `fetch` gets the receipt of one prediction, `batches` the published chain;
    `strongroom verify-receipt` checks both without any network.
    """


@receipt.command()
@click.argument("prediction")
@click.option("--out", type=click.Path(path_type=Path), help="File to write; else stdout.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
def fetch(prediction: str, out: Path | None, force: bool) -> None:
    """Fetch the receipt of PREDICTION, checked before it is written.

    For the account that paid for it, and for the owner of the model.
    """
    config, profile, web = load_web()
    document = web.get_receipt(prediction)
    found = receipts.verify(document, pin_key(config, profile.web_url, web))
    if found.prediction != prediction:
        raise ReceiptError("other_prediction", "The receipt is of another prediction.")
    write_document(document, out, force=force)
    if out is not None:
        say(f"Wrote the receipt to {out}. {_describe(found)}")


@receipt.command()
@click.option("--out", type=click.Path(path_type=Path), help="File to write; else stdout.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@click.option(
    "--previous",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An earlier file: every batch in it must still be the same.",
)
def batches(out: Path | None, force: bool, previous: Path | None) -> None:
    """Fetch the published chain of all batches, checked before it is written."""
    config, profile, web = load_web()
    keys = pin_key(config, profile.web_url, web)
    found = list(web.list_receipt_batches())
    hashes = receipts.verify_batches(found, keys)
    if previous is not None:
        _check_kept(read_file(previous), hashes, keys)
    write_document({"platform": profile.web_url, "batches": found}, out, force=force)
    if out is not None:
        say(f"Wrote {len(found)} batches to {out}. Each follows the one before it.")


def of_receipts(command: Command) -> Command:
    """What every command takes that proves something from receipts, without any network."""
    for decorate in (
        click.option(
            "--receipt-key",
            "public_key",
            help="The platform's receipt key (base64), as its operator told you; "
            "else the pinned one.",
        ),
        click.option(
            "--batches",
            "chain",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="The published chain, from `strongroom receipt batches`: "
            "the receipts must be in it.",
        ),
        click.argument(
            "files",
            nargs=-1,
            required=True,
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
        ),
    ):
        command = decorate(command)
    return command


@click.command("verify-receipt")
@of_receipts
@click.option("--consumer", help="Id of the account that must be the one that paid.")
@as_json
def verify_receipt(
    files: tuple[Path, ...],
    chain: Path | None,
    consumer: str | None,
    public_key: str | None,
    is_json: bool,
) -> None:
    """Check receipts offline, and add them up; exit code 1 names the first that is wrong.

    Every receipt counts once, however often its file is given.
    """
    found: dict[str, Verified] = {}
    # The chain is long: it is verified once for each platform's keys.
    published = functools.cache(functools.partial(read_chain, chain))
    for file in files:
        document = read_file(file)
        keys = trusted_keys(document, public_key)
        try:
            one = receipts.verify(document, keys, consumer_id=consumer)
            hashes = published(keys)
            if hashes is not None:
                receipts.check_published(document, hashes)
        except ReceiptError as error:
            raise ReceiptError(error.code, f"{file}: {error.detail}") from None
        found[one.prediction] = one
    gross_nanos = sum(one.gross_nanos for one in found.values())
    creator_nanos = sum(one.creator_nanos for one in found.values())
    if is_json:
        answer_json(
            {
                "receipts": len(found),
                "gross_nanos": gross_nanos,
                "creator_nanos": creator_nanos,
                "predictions": sorted(found),
            }
        )
        return
    if len(found) == 1:
        say(f"Right: {_describe(next(iter(found.values())))}")
        return
    say(
        f"Right: {len(found)} receipts, {show_dollars(gross_nanos)} in all, of it "
        f"{show_dollars(creator_nanos)} the creators'."
    )


def _describe(found: Verified) -> str:
    return (
        f"prediction {found.prediction} cost {show_dollars(found.gross_nanos)}, of it "
        f"{show_dollars(found.creator_nanos)} the creator's, and is in batch {found.batch}, "
        f"sealed {found.sealed_at}."
    )


def show_dollars(nanos: int) -> str:
    """Dollars with all nine places."""
    whole, rest = divmod(abs(nanos), _NANOS_PER_DOLLAR)
    return f"{'-' if nanos < 0 else ''}${whole}.{rest:09d}"


def pin_key(config: ConfigFolder, web_url: str, web: WebClient) -> tuple[bytes, ...]:
    """The pinned receipt key and those around it; pins on first sight, and follows after."""
    shown = web.get_receipt_keys()
    if shown.get("public_key") is None:
        raise ReceiptError("batch_unknown", "The platform has sealed no receipts yet.")
    public_key = decode_base64(shown["public_key"], size_bytes=signature.PUBLIC_KEY_BYTES)
    pin = config.pin_receipt_key(web_url, public_key, shown.get("successions"))
    if pin is not Pin.SAME:
        say(f"Receipt key {signature.fingerprint(public_key)} {pin.value}.")
    return config.list_receipt_keys(web_url)


def trusted_keys(document: dict[str, Any], public_key: str | None) -> tuple[bytes, ...]:
    """The key that was named, else those pinned for the document's platform.

    Raises:
        ReceiptKeyError: `receipt_key_unknown`.
        ReceiptError: `not_a_receipt`.
    """
    if public_key is not None:
        return (decode_base64(public_key, size_bytes=signature.PUBLIC_KEY_BYTES),)
    web_url = document.get("platform")
    if not isinstance(web_url, str):
        raise ReceiptError("not_a_receipt", "The file names no platform.")
    keys = ConfigFolder().list_receipt_keys(web_url)
    if not keys:
        detail = f"The receipt key of {web_url} is not known here. Fetch a receipt, or name it "
        raise ReceiptKeyError("receipt_key_unknown", detail + "by --receipt-key.")
    return keys


def _check_kept(earlier: dict[str, Any], hashes: dict[int, str], keys: tuple[bytes, ...]) -> None:
    for seq, before in receipts.verify_batches(list_batches(earlier), keys).items():
        if hashes.get(seq) != before:
            detail = f"Batch {seq} of the earlier file was taken out or replaced."
            raise ReceiptError("batch_replaced", detail)


def read_chain(chain: Path | None, keys: tuple[bytes, ...]) -> dict[int, str] | None:
    """The hash of each batch of a published chain, verified; None if none was given.

    Raises:
        ReceiptError: It is no chain, or does not hold.
    """
    if chain is None:
        return None
    return receipts.verify_batches(list_batches(read_file(chain)), keys)


def list_batches(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The batches of a file that `receipt batches` wrote.

    Raises:
        ReceiptError: `not_a_receipt`.
    """
    found = document.get("batches")
    if not isinstance(found, list):
        raise ReceiptError("not_a_receipt", "The file is no list of batches.")
    return found


def read_file(path: Path) -> dict[str, Any]:
    """A file of one JSON object.

    Raises:
        DocumentFileError: `file_too_large`.
        ReceiptError: `not_a_receipt`.
    """
    return read_document(
        path,
        max_bytes=MAX_FILE_BYTES,
        refuse=lambda detail: ReceiptError("not_a_receipt", detail),
    )
