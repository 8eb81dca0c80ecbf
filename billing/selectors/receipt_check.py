"""Check a receipt step by step, so that a person sees what holds and what does not.

`strongroom.receipts.verify` says yes or no; this says the same of each part by itself, with the
same functions. static/js/receipt.js does it in the browser, in the same steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from billing.models import ReceiptKey
from marketplace.core.money import format_nanos
from strongroom import receipts
from strongroom.errors import StrongroomError
from strongroom.sealing.canonical import decode_base64

# A receipt has a few KiB, also in a batch of the largest size.
DOCUMENT_LENGTH_MAX = 64 * 1024
HASH_BYTES = 32
# What a document that somebody made can be wrong in.
_FAULTS = (KeyError, TypeError, ValueError, AttributeError, IndexError, StrongroomError)

TITLES = {
    "format": "It is a receipt",
    "sum": "The charge adds up",
    "leaf": "Leaf: the hash of the charge",
    "path": "Path: from the leaf to a root",
    "root": "Root: it is the batch's",
    "signature": "Signature of the batch",
    "key": "Key: this platform's",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One part of the check; `state` is done, failed or todo, as the page's steps have it."""

    name: str
    state: str
    text: str

    @property
    def title(self) -> str:
        """The part in words."""
        return TITLES[self.name]


def list_published_keys() -> list[dict[str, str]]:
    """All keys that have signed batches, the first one first."""
    keys = ReceiptKey.objects.order_by("created_at")
    return [{"kid": one.kid, "public_key": one.public_key} for one in keys]


def check_steps(text: str, keys: Sequence[Mapping[str, str]]) -> list[Step]:
    """What holds of a receipt, and what does not.

    Args:
        text: The receipt as a file has it.
        keys: Of `list_published_keys`.

    Returns:
        All steps in their order. Those behind a file that is no receipt are not done.
    """
    try:
        document = _read(text)
    except (*_FAULTS, RecursionError) as error:
        fault = Step("format", "failed", f"The text is no receipt ({type(error).__name__}).")
        rest = [Step(name, "todo", "Not checked.") for name in list(TITLES)[1:]]
        return [fault, *rest]
    checks: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "sum": _check_sum,
        "leaf": lambda one: receipts.hash_leaf(one["charge"]).hex(),
        "path": _check_path,
        "root": _check_root,
        "signature": lambda one: _check_signature(one, keys),
        "key": lambda one: _check_key(one, keys),
    }
    first = Step("format", "done", f"{receipts.FORMAT}, of prediction {_name(document)}.")
    return [first, *(_run(name, check, document) for name, check in checks.items())]


def is_valid(steps: Sequence[Step]) -> bool:
    """Whether every step was done."""
    return all(step.state == "done" for step in steps)


def _run(name: str, check: Callable[[Mapping[str, Any]], str], document: Mapping[str, Any]) -> Step:
    try:
        return Step(name, "done", check(document))
    except StrongroomError as error:
        return Step(name, "failed", error.detail)
    except _FAULTS as error:
        return Step(name, "failed", f"It is not what a receipt has there ({type(error).__name__}).")


def _read(text: str) -> Mapping[str, Any]:
    if len(text) > DOCUMENT_LENGTH_MAX:
        raise ValueError("too long")
    document = json.loads(text)
    if document["format"] != receipts.FORMAT:
        raise ValueError("another format")
    _ = document["index"], document["path"], document["signature"], document["kid"]
    if not (isinstance(document["charge"], dict) and isinstance(document["batch"], dict)):
        raise TypeError("another form")
    return document


def _name(document: Mapping[str, Any]) -> str:
    return str(document["charge"].get("prediction"))[:64]


def _check_sum(document: Mapping[str, Any]) -> str:
    charge = document["charge"]
    # A tree of this one leaf: what is left to be checked are the sums.
    root = receipts.hash_leaf(charge).hex()
    receipts.check_charge(charge, 0, [], {"size": 1, "root": root})
    return (
        f"Units and price come to {format_nanos(charge['gross_nanos'])}, of which "
        f"{format_nanos(charge['creator_nanos'])} are the creator's."
    )


def _climb(document: Mapping[str, Any]) -> bytes:
    path = [bytes.fromhex(one) for one in document["path"]]
    index, size = document["index"], document["batch"]["size"]
    is_whole = type(index) is int and type(size) is int and 0 < size < receipts.BATCH_SIZE_MAX
    if not is_whole or any(len(one) != HASH_BYTES for one in path):
        raise ValueError("no path")
    leaf = receipts.hash_leaf(document["charge"])
    root = receipts.follow_path(leaf, index, size, path)
    if root is None:
        raise receipts.ReceiptError("not_in_batch", "No batch of this size has such a path.")
    return root


def _check_path(document: Mapping[str, Any]) -> str:
    root = _climb(document)
    count = len(document["path"])
    place = f"{document['index'] + 1} of {document['batch']['size']}"
    return f"Charge {place}, in {count} steps to {root.hex()}."


def _check_root(document: Mapping[str, Any]) -> str:
    if _climb(document).hex() != document["batch"]["root"]:
        detail = f"The batch has another: {str(document['batch']['root'])[:64]}."
        raise receipts.ReceiptError("not_in_batch", detail)
    return f"Batch {document['batch']['seq']} has the same root."


def _check_signature(document: Mapping[str, Any], keys: Sequence[Mapping[str, str]]) -> str:
    named = [one for one in keys if one["kid"] == document["kid"]]
    if not named:
        raise receipts.ReceiptError("signature_invalid", "There is no key to check it with.")
    raw = decode_base64(named[0]["public_key"])
    receipts.check_batch(document["batch"], document["signature"], [raw])
    return f"Ed25519, over the statement of {document['batch']['sealed_at']}."


def _check_key(document: Mapping[str, Any], keys: Sequence[Mapping[str, str]]) -> str:
    for one in keys:
        raw = decode_base64(one["public_key"])
        if one["kid"] == document["kid"] == receipts.derive_kid(raw):
            return f"{one['kid']} is among the keys that this platform publishes."
    detail = f"{str(document['kid'])[:64]} is none of the keys that this platform publishes."
    raise receipts.ReceiptError("signature_invalid", detail)
