"""Receipts: proof that a prediction was counted, once, at its price.

All charges are sealed in batches. The charges of a batch are the leaves of a Merkle tree;
its root stands in a statement that is signed and names the statement before it, so that the
batches form one chain. A receipt is a charge, the way from its leaf to the root, and the
signed statement: it is checked with no network, and with nothing but the platform's receipt
key.

A consumer who keeps receipts can add up an invoice, a creator can add up what is owed, and
whoever compares a receipt with the published chain sees if its batch was taken out or
written anew.

Source: RFC 9162, section 2.1 (Merkle trees, proofs of inclusion); DSSE v1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from strongroom.errors import StrongroomError
from strongroom.rating import rate, read_terms
from strongroom.sealing import signature
from strongroom.sealing.canonical import canonicalize
from strongroom.sealing.errors import CanonicalError

FORMAT = "strongroom-receipt/1"
BATCH_TYPE = "application/vnd.strongroom.receipt-batch+json"
KEY_TYPE = "application/vnd.strongroom.receipt-key+json"
# What is hashed of a charge, and what is signed of a batch. Nothing else is proved.
CHARGE_MEMBERS = (
    "prediction",
    "consumer",
    "creator",
    "version",
    "price",
    "mode",
    "units",
    "rates_nanos",
    "creator_share_bps",
    "gross_nanos",
    "creator_nanos",
    "transfer",
    "occurred_at",
)
# What else the price says, where it is more than an amount for each row: hashed where it is there.
TERMS = "terms"
# Who gets which part of the creator's, where the version shares it: hashed where it is there.
ROYALTIES = "royalties"
BATCH_MEMBERS = ("seq", "size", "root", "previous", "sealed_at")
# A tree of as many leaves has a way of 40 steps.
BATCH_SIZE_MAX = 1 << 40
# What stands before the first batch.
GENESIS = hashlib.sha256(b"strongroom-receipt-batches/1").hexdigest()
_BPS = 10_000


class ReceiptError(StrongroomError):
    """A receipt, or the chain of batches, does not hold."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What a valid receipt says."""

    prediction: str
    gross_nanos: int
    creator_nanos: int
    batch: int
    sealed_at: str
    kid: str


# --- Trees ------------------------------------------------------------------------


def hash_leaf(charge: Mapping[str, Any]) -> bytes:
    """The leaf of a charge. A leaf and an inner node never have the same input."""
    members = (*CHARGE_MEMBERS, *(one for one in (TERMS, ROYALTIES) if one in charge))
    return hashlib.sha256(b"\x00" + canonicalize({name: charge[name] for name in members})).digest()


def hash_root(leaves: Sequence[bytes]) -> bytes:
    """The root over leaves; at least one."""
    level = list(leaves)
    while len(level) > 1:
        level = _next_level(level)
    return level[0]


def list_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """What has to be added to the leaf at `index` on its way to the root."""
    return pick_path(list_levels(leaves), index)


def list_levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """The whole tree from below, without its root; for the paths of many leaves."""
    levels, level = [], list(leaves)
    while len(level) > 1:
        levels.append(level)
        level = _next_level(level)
    return levels


def pick_path(levels: Sequence[Sequence[bytes]], index: int) -> list[bytes]:
    """The way of the leaf at `index` through a tree."""
    path = []
    for level in levels:
        beside = index ^ 1
        # The last of an odd number goes up as it is.
        if beside < len(level):
            path.append(level[beside])
        index //= 2
    return path


def list_paths(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """What `list_path` answers for each leaf, with the tree made once."""
    levels = [list(leaves)]
    while len(levels[-1]) > 1:
        levels.append(_next_level(levels[-1]))
    return [
        [
            level[index >> depth ^ 1]
            for depth, level in enumerate(levels)
            if index >> depth ^ 1 < len(level)
        ]
        for index in range(len(leaves))
    ]


def follow_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root to which a path leads; None if no tree of this size has such a path."""
    if not 0 <= index < size:
        return None
    left = list(path)
    while size > 1:
        if index ^ 1 < size:
            if not left:
                return None
            beside = left.pop(0)
            leaf = _hash_pair(beside, leaf) if index % 2 else _hash_pair(leaf, beside)
        index, size = index // 2, (size + 1) // 2
    return None if left else leaf


def _next_level(level: Sequence[bytes]) -> list[bytes]:
    pairs = [_hash_pair(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
    return [*pairs, level[-1]] if len(level) % 2 else pairs


def _hash_pair(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


# --- What is signed ----------------------------------------------------------------


def derive_kid(public_key: bytes) -> str:
    """How a receipt key is named: the first half of its SHA-256, in hex."""
    return hashlib.sha256(public_key).hexdigest()[:32]


def hide_consumer(account_id: str, prediction: str) -> str:
    """How a charge names who pays: the consumer recognises itself, nobody else learns a name.

    Two charges of one consumer look like those of two.
    """
    return hashlib.sha256(
        canonicalize({"account": account_id, "prediction": prediction})
    ).hexdigest()


def batch_payload(batch: Mapping[str, Any]) -> bytes:
    """What is signed of a batch."""
    return canonicalize({name: batch[name] for name in BATCH_MEMBERS})


def hash_batch(batch: Mapping[str, Any]) -> str:
    """The hash that the next batch names as the one before it."""
    return hashlib.sha256(batch_payload(batch)).hexdigest()


def compute_gross(charge: Mapping[str, Any]) -> int:
    """What a charge must come to, in nano-dollars: see `strongroom.rating`; tests are free."""
    if charge["mode"] == "test":
        return 0
    units, rates = charge["units"], charge["rates_nanos"]
    if TERMS in charge:
        terms = read_terms(charge[TERMS], rates["prediction"])
        metered = {kind: count for kind, count in units.items() if kind != "prediction"}
        position = charge[TERMS]["position"]
        if terms.is_counted != (position is not None):
            raise ValueError("what is counted has a position")
        return rate(terms, units["prediction"], metered, position)
    return sum(count * rates[kind] for kind, count in units.items())


def compute_earned(charge: Mapping[str, Any], account_id: str) -> int | None:
    """What an account earned by a charge, in nano-dollars; None if it has no part in it.

    The creator has what royalties leave.
    """
    royalties = charge.get(ROYALTIES, ())
    if charge["creator"] == account_id:
        return int(charge["creator_nanos"] - sum(one["nanos"] for one in royalties))
    own = [one["nanos"] for one in royalties if one["account"] == account_id]
    return sum(own) if own else None


# --- Verification ------------------------------------------------------------------


def verify(
    document: Mapping[str, Any], keys: Sequence[bytes], *, consumer_id: str | None = None
) -> Verified:
    """Check a receipt with nothing but this file and the platform's receipt keys.

    Args:
        document: The receipt, decoded.
        keys: Raw Ed25519 keys that are trusted.
        consumer_id: The account that must be the one that pays.

    Raises:
        ReceiptError: `not_a_receipt`, `wrong_sum`, `other_consumer`, `not_in_batch`,
            `signature_invalid`.
    """
    try:
        return _verify(document, keys, consumer_id)
    except (KeyError, TypeError, ValueError, AttributeError, CanonicalError) as error:
        detail = f"The file is no receipt ({type(error).__name__})."
        raise ReceiptError("not_a_receipt", detail) from None


def verify_batches(batches: Sequence[Mapping[str, Any]], keys: Sequence[bytes]) -> dict[int, str]:
    """Check that published batches are signed and follow one upon the other.

    Args:
        batches: In the order of their numbers, without a gap; they may begin anywhere.
        keys: Raw Ed25519 keys that are trusted.

    Returns:
        The hash of each batch, by its number.

    Raises:
        ReceiptError: `not_a_receipt`, `chain_broken`, `signature_invalid`.
    """
    found: dict[int, str] = {}
    try:
        for batch in batches:
            seq = _read_count(batch["seq"])
            before = GENESIS if seq == 1 else found.get(seq - 1)
            is_next = not found or seq - 1 in found
            # Before the first of them nothing is known, unless it is the first of all.
            if seq in found or not is_next or before not in (None, batch["previous"]):
                detail = f"Batch {seq} does not follow the one before it."
                raise ReceiptError("chain_broken", detail)
            _check_signed(batch, batch["signature"], keys)
            found[seq] = hash_batch(batch)
    except (KeyError, TypeError, ValueError, AttributeError, CanonicalError) as error:
        detail = f"The file is no list of batches ({type(error).__name__})."
        raise ReceiptError("not_a_receipt", detail) from None
    return found


def check_published(document: Mapping[str, Any], hashes: Mapping[int, str]) -> None:
    """Check that the batch of a verified receipt is the one that was published.

    Raises:
        ReceiptError: `batch_unknown`, `batch_replaced`.
    """
    batch = document["batch"]
    published = hashes.get(batch["seq"])
    if published is None:
        detail = f"Batch {batch['seq']} is not among the published ones."
        raise ReceiptError("batch_unknown", detail)
    if published != hash_batch(batch):
        detail = f"Another batch {batch['seq']} was published than the one of this receipt."
        raise ReceiptError("batch_replaced", detail)


def _verify(
    document: Mapping[str, Any], keys: Sequence[bytes], consumer_id: str | None
) -> Verified:
    if document["format"] != FORMAT:
        raise ReceiptError("not_a_receipt", f"The format is not {FORMAT}.")
    charge, batch = document["charge"], document["batch"]
    _check_sums(charge)
    if consumer_id is not None and charge["consumer"] != hide_consumer(
        consumer_id, charge["prediction"]
    ):
        raise ReceiptError("other_consumer", "The receipt is another account's.")
    _check_place(charge, document["index"], document["path"], batch)
    _check_signed(batch, document["signature"], keys)
    return Verified(
        prediction=charge["prediction"],
        gross_nanos=charge["gross_nanos"],
        creator_nanos=charge["creator_nanos"],
        batch=batch["seq"],
        sealed_at=batch["sealed_at"],
        kid=document["kid"],
    )


def check_charge(
    charge: Mapping[str, Any], index: Any, path: Sequence[Any], batch: Mapping[str, Any]
) -> None:
    """Check that a charge adds up and is one of a batch's; whose signature is checked elsewhere.

    Raises:
        ReceiptError: `wrong_sum`, `not_in_batch`.
        KeyError, TypeError, ValueError, AttributeError, CanonicalError: It is no charge.
    """
    _check_sums(charge)
    _check_place(charge, index, path, batch)


def check_batch(batch: Mapping[str, Any], text: str, keys: Sequence[bytes]) -> None:
    """Check the signature of a batch's statement.

    Raises:
        ReceiptError: `signature_invalid`.
        KeyError, TypeError, ValueError, AttributeError, CanonicalError: It is no batch.
    """
    _check_signed(batch, text, keys)


def _check_place(
    charge: Mapping[str, Any], at: Any, path: Sequence[Any], batch: Mapping[str, Any]
) -> None:
    index, size = _read_count(at), _read_count(batch["size"])
    root = follow_path(hash_leaf(charge), index, size, [_read_hash(one) for one in path])
    if root is None or root != _read_hash(batch["root"]):
        raise ReceiptError("not_in_batch", "The charge is not one of the batch's.")


def _check_sums(charge: Mapping[str, Any]) -> None:
    units, rates = charge["units"], charge["rates_nanos"]
    amounts = [*units.values(), *rates.values(), charge["gross_nanos"], charge["creator_nanos"]]
    if TERMS in charge:
        terms = charge[TERMS]
        amounts += [*terms["nanos_per_million"].values(), terms["minimum_nanos"]]
        amounts += [terms["free_units"], *(number for tier in terms["tiers"] for number in tier)]
        amounts += [] if terms["position"] is None else [terms["position"]]
    for amount in (*amounts, charge["creator_share_bps"]):
        _read_count(amount)
    gross_nanos = compute_gross(charge)
    if charge["gross_nanos"] != gross_nanos:
        detail = f"The charge is {charge['gross_nanos']} nano-dollars; it comes to {gross_nanos}."
        raise ReceiptError("wrong_sum", detail)
    creator_nanos = gross_nanos * charge["creator_share_bps"] // _BPS
    if charge["creator_nanos"] != creator_nanos:
        detail = f"The creator's part is {charge['creator_nanos']}; it comes to {creator_nanos}."
        raise ReceiptError("wrong_sum", detail)
    if ROYALTIES in charge:
        _check_royalties(charge)


def _check_royalties(charge: Mapping[str, Any]) -> None:
    """Each part is what its share of the creator's part comes to, and no share is of oneself."""
    left_bps = _BPS
    for one in charge[ROYALTIES]:
        left_bps -= _read_count(one["bps"])
        nanos = charge["creator_nanos"] * one["bps"] // _BPS
        if _read_count(one["nanos"]) != nanos:
            detail = f"A royalty is {one['nanos']} nano-dollars; it comes to {nanos}."
            raise ReceiptError("wrong_sum", detail)
        if one["account"] == charge["creator"]:
            raise ReceiptError("wrong_sum", "A royalty goes to the creator's own account.")
    if left_bps < 0:
        raise ReceiptError("wrong_sum", "The royalties are more than the creator's whole part.")


def _check_signed(batch: Mapping[str, Any], text: str, keys: Sequence[bytes]) -> None:
    if signature.is_signed(BATCH_TYPE, batch_payload(batch), text, keys):
        return
    detail = f"Batch {batch['seq']} is not signed by a receipt key that is trusted here."
    raise ReceiptError("signature_invalid", detail)


def _read_count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < BATCH_SIZE_MAX * 2**20:
        raise ValueError("no count")
    return value


def _read_hash(text: str) -> bytes:
    found = bytes.fromhex(text)
    if len(found) != hashlib.sha256().digest_size or found.hex() != text:
        raise ValueError("no hash")
    return found
