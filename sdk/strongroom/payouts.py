"""Payouts: recompute what a creator is paid from the receipts of every prediction.

The document of a payout is a file of lines, each a JSON object, so that it can be read piece
by piece however many predictions it has:

    payout                       whose, how much, and what was left of the payout before
      movement (a release)       one day's earnings that became payable
        batch                    a signed statement about a batch of receipts
          charge                 a prediction of the creator's in that batch, and its path
        correction               what was taken back from, or added to, that day's earnings
      movement (anything else)   what else came to the payable or left it
    end                          how many lines there were, and what is left

Everything but corrections and other movements follows from charges that the platform signed.

Source: the module `receipts`, for charges and batches.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from strongroom import receipts
from strongroom.errors import StrongroomError
from strongroom.receipts import ReceiptError
from strongroom.sealing.errors import CanonicalError

FORMAT = "strongroom-payout/1"
NANOS_PER_CENT = 10_000_000
# Stripe takes amounts of eight digits.
AMOUNT_CENTS_MAX = 99_999_999
# Two hundred megabytes of memory, to see what comes twice.
CHARGES_MAX = 2_000_000
# A charge with its path has less than two kilobytes.
LINE_BYTES_MAX = 64 * 1024
# Beyond what any ledger account can hold.
_NANOS_MAX = 1 << 63
_WRONG_FORM = (KeyError, TypeError, ValueError, AttributeError, CanonicalError, RecursionError)


class PayoutError(StrongroomError):
    """The document of a payout does not hold."""


@dataclass(slots=True)
class VerifiedPayout:
    """What a valid document says, in nano-dollars."""

    payout: str = ""
    creator: str = ""
    amount_cents: int = 0
    opening_nanos: int = 0
    closing_nanos: int = 0
    previous: str | None = None
    predictions: int = 0
    # What the receipts prove; and what they do not: taken back or added by the platform.
    earned_nanos: int = 0
    corrected_nanos: int = 0
    moved_nanos: int = 0


@dataclass(slots=True)
class _Release:
    """A day that is being read: what its line says, and what was found since."""

    day: str
    amount_nanos: int
    predictions: int
    found_nanos: int = 0
    found: int = 0


@dataclass(slots=True)
class PayoutReader:
    """Checks documents line by line; several of one creator in their order are one chain.

    Args:
        keys: Raw Ed25519 receipt keys that are trusted.
        hashes: The published batches by number, if the charges' must be among them.
    """

    keys: Sequence[bytes]
    hashes: Mapping[int, str] | None = None
    _seen: set[str] = field(default_factory=set)
    _before: VerifiedPayout | None = None
    _payout: VerifiedPayout = field(default_factory=VerifiedPayout)
    _release: _Release | None = None
    _batch: Mapping[str, Any] | None = None

    def verify(self, lines: Iterable[bytes]) -> VerifiedPayout:
        """Check one document.

        Raises:
            PayoutError: `not_a_payout`, `truncated`, `receipt_missing`, `counted_twice`,
                `wrong_release`, `wrong_amount`, `other_creator`, `carry_forward_broken`,
                `payout_too_large`.
            ReceiptError: A charge or batch in it does not hold; codes of receipts.
        """
        number = 0
        ended = False
        self._payout, self._release, self._batch = VerifiedPayout(), None, None
        for number, line in enumerate(lines, 1):
            if ended:
                raise PayoutError("not_a_payout", "There is something behind the end.")
            try:
                ended = self._read(number, _decode(line))
            except _WRONG_FORM as error:
                detail = f"Line {number} is none of a payout's ({type(error).__name__})."
                raise PayoutError("not_a_payout", detail) from None
            except (ReceiptError, PayoutError) as error:
                raise type(error)(error.code, f"Line {number}: {error.detail}") from None
        if not ended:
            raise PayoutError(
                "truncated", f"The document ends without an end after {number} lines."
            )
        self._before = self._payout
        return self._payout

    def _read(self, number: int, line: Mapping[str, Any]) -> bool:
        """Take one line in; whether it was the last."""
        kind = line["type"]
        if (kind == "payout") is not (number == 1):
            raise ValueError("the header is the first line, and only that")
        if kind == "payout":
            self._begin(line)
        elif kind == "movement":
            self._end_release()
            self._move(line)
        elif kind == "batch":
            self._open_batch(line)
        elif kind == "charge":
            self._add_charge(line)
        elif kind == "correction":
            self._correct(line)
        elif kind == "end":
            self._end_release()
            self._end(number, line)
        else:
            raise ValueError("unknown line")
        return bool(kind == "end")

    def _begin(self, line: Mapping[str, Any]) -> None:
        if line["format"] != FORMAT:
            raise PayoutError("not_a_payout", f"The format is not {FORMAT}.")
        before = self._before
        payout = VerifiedPayout(
            payout=_text(line["payout"]),
            creator=_text(line["creator"]),
            amount_cents=_nanos(line["amount_cents"]),
            opening_nanos=_nanos(line["opening_nanos"]),
            previous=None if line["previous"] is None else _text(line["previous"]),
        )
        if before is not None and (payout.creator, payout.previous, payout.opening_nanos) != (
            before.creator,
            before.payout,
            before.closing_nanos,
        ):
            detail = (
                f"It begins with {payout.opening_nanos} nano-dollars after payout "
                f"{payout.previous}; the payout before it is {before.payout} and left "
                f"{before.closing_nanos}."
            )
            raise PayoutError("carry_forward_broken", detail)
        if payout.previous is None and payout.opening_nanos != 0:
            raise PayoutError("carry_forward_broken", "The first payout begins with nothing.")
        self._payout = payout

    def _move(self, line: Mapping[str, Any]) -> None:
        amount_nanos = _nanos(line["amount_nanos"])
        if _text(line["kind"]) == "release":
            self._release = _Release(_text(line["day"]), amount_nanos, _nanos(line["predictions"]))
        else:
            self._payout.moved_nanos += amount_nanos

    def _open_batch(self, line: Mapping[str, Any]) -> None:
        batch = line["batch"]
        receipts.check_batch(batch, line["signature"], self.keys)
        if self.hashes is not None:
            receipts.check_published({"batch": batch}, self.hashes)
        self._batch = batch

    def _add_charge(self, line: Mapping[str, Any]) -> None:
        release, batch = self._release, self._batch
        if release is None or batch is None:
            raise ValueError("a charge belongs to a release and a batch")
        charge = line["charge"]
        receipts.check_charge(charge, line["index"], line["path"], batch)
        prediction = _text(charge["prediction"])
        earned_nanos = receipts.compute_earned(charge, self._payout.creator)
        if earned_nanos is None:
            raise PayoutError("other_creator", f"Prediction {prediction} is another creator's.")
        if prediction in self._seen:
            raise PayoutError("counted_twice", f"Prediction {prediction} is counted twice.")
        if len(self._seen) >= CHARGES_MAX:
            detail = f"There are more than {CHARGES_MAX} predictions."
            raise PayoutError("payout_too_large", detail)
        self._seen.add(prediction)
        release.found += 1
        release.found_nanos += earned_nanos
        self._payout.predictions += 1
        self._payout.earned_nanos += earned_nanos

    def _correct(self, line: Mapping[str, Any]) -> None:
        if self._release is None:
            raise ValueError("a correction belongs to a release")
        _text(line["kind"])
        amount_nanos = _nanos(line["amount_nanos"])
        self._release.found_nanos += amount_nanos
        self._payout.corrected_nanos += amount_nanos

    def _end_release(self) -> None:
        release, self._release, self._batch = self._release, None, None
        if release is None:
            return
        if release.found < release.predictions:
            missing = release.predictions - release.found
            detail = f"{missing} receipts of {release.day} are missing."
            raise PayoutError("receipt_missing", detail)
        if release.found_nanos != release.amount_nanos or release.found > release.predictions:
            detail = (
                f"{release.amount_nanos} nano-dollars of {release.day} became payable for "
                f"{release.predictions} predictions; {release.found} receipts and the "
                f"corrections come to {release.found_nanos}."
            )
            raise PayoutError("wrong_release", detail)

    def _end(self, number: int, line: Mapping[str, Any]) -> None:
        if _nanos(line["lines"]) != number:
            detail = f"The document had {line['lines']} lines; it has {number}."
            raise PayoutError("truncated", detail)
        found = self._payout
        payable_nanos = (
            found.opening_nanos + found.earned_nanos + found.corrected_nanos + found.moved_nanos
        )
        amount_cents = min(max(payable_nanos, 0) // NANOS_PER_CENT, AMOUNT_CENTS_MAX)
        if found.amount_cents != amount_cents or amount_cents == 0:
            detail = (
                f"{found.amount_cents} cents were paid; {payable_nanos} nano-dollars were "
                f"payable, which is {amount_cents} cents."
            )
            raise PayoutError("wrong_amount", detail)
        found.closing_nanos = payable_nanos - amount_cents * NANOS_PER_CENT
        if _nanos(line["closing_nanos"]) != found.closing_nanos:
            detail = (
                f"{line['closing_nanos']} nano-dollars are carried forward; "
                f"{found.closing_nanos} are left."
            )
            raise PayoutError("wrong_amount", detail)


def read_lines(file: Any) -> Iterator[bytes]:
    """The lines of a binary file, none longer than `LINE_BYTES_MAX`.

    Raises:
        PayoutError: `not_a_payout`.
    """
    while line := file.readline(LINE_BYTES_MAX + 1):
        if len(line) > LINE_BYTES_MAX:
            raise PayoutError("not_a_payout", "A line is longer than any of a payout's.")
        yield line


def _decode(line: bytes) -> Mapping[str, Any]:
    found = json.loads(line)
    if not isinstance(found, dict):
        raise TypeError("a line is an object")
    return found


def _nanos(value: Any) -> int:
    if type(value) is not int or not -_NANOS_MAX <= value < _NANOS_MAX:
        raise ValueError("no amount")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 200:
        raise ValueError("no text")
    return value
