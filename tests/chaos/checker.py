"""Compare what clients were answered with what was booked.

Plain Python on plain rows, without a line of the product's code: what it expects is worked
out anew from the journal and the price.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from uuid import UUID

from tests.chaos.journal import Attempt

# What a client may be told while a part is away. Everything else is a fault.
REFUSALS = frozenset({(409, "idempotency_in_flight")})
AWAY = frozenset({503, 504})
# The one refusal behind which a booking may stand: the client is told to ask.
UNKNOWN = "booking_unknown"
# Clocks of client and gateway are the same one, read at different moments.
_CLOCK_S = 0.05


@dataclass(frozen=True)
class Usage:
    """A usage event, as the database has it."""

    prediction_id: UUID
    gross_nanos: int
    # What moved its money, together with that of others.
    transfer_id: UUID | None
    idempotency_key: str | None = None
    # Of the request, where its client counts its attempts in place of a key.
    fingerprint: bytes | None = None


@dataclass(frozen=True)
class Entry:
    """One side of a transfer that touches the consumer's wallet."""

    transfer_id: UUID
    amount_nanos: int


@dataclass
class Verdict:
    """What the comparison came to.

    Args:
        faults: A line for each thing that must not be.
        answered: Predictions that were handed over.
        booked: Usage events.
        undelivered: Booked without a key, and the connection died before the answer.
        refused: Attempts that were answered with an error, by its code.
        died: Attempts that were not answered at all.
    """

    faults: list[str] = field(default_factory=list)
    answered: int = 0
    booked: int = 0
    undelivered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    died: int = 0


def check(
    attempts: Sequence[Attempt],
    usages: Sequence[Usage],
    entries: Sequence[Entry],
    *,
    price: Fraction,
    late_s: float = _CLOCK_S,
) -> Verdict:
    """Find everything that was lost, doubled, or charged without an answer.

    Args:
        attempts: Of all clients.
        usages: All usage events of their keys.
        entries: All entries on their wallet since the first attempt, credit left out.
        price: Of one prediction, in dollars.
        late_s: How long after its connection died a request may have arrived: one that its
            client left at once lies unread while the gateway is busy.
    """
    verdict = Verdict()
    answers = [one for one in attempts if one.is_answered]
    answered = {one.id for one in answers}
    booked = Counter(one.prediction_id for one in usages)
    verdict.answered, verdict.booked = len(answered), len(booked)
    verdict.died = sum(one.status is None for one in attempts)
    verdict.refused.update(one.code for one in attempts if one.status and not one.is_answered)

    verdict.faults += _check_answers(attempts)
    verdict.faults += [f"lost: {one} was answered and not booked" for one in answered - set(booked)]
    verdict.faults += [f"double: {one} is booked {n} times" for one, n in booked.items() if n > 1]
    verdict.faults += _check_keys(usages)
    refused = {one.id for one in attempts if one.status and not one.is_answered}
    unknown = {one.id for one in attempts if one.code == UNKNOWN}
    verdict.faults += [
        f"charged failure: {one} was refused and booked"
        for one in (refused - unknown - answered) & set(booked)
    ]
    left = [one for one in usages if one.prediction_id not in answered | refused]
    verdict.undelivered, faults = _match_undelivered(attempts, left, late_s)
    verdict.faults += faults
    verdict.undelivered += len((unknown - answered) & set(booked))
    verdict.faults += _check_amounts(answers, usages, entries, nanos=price * 10**9)
    return verdict


def _check_answers(attempts: Sequence[Attempt]) -> list[str]:
    """Each request is answered with one prediction, the right one, or refused as it may be."""
    faults = []
    ids = defaultdict(set)
    for one in attempts:
        if one.is_answered:
            ids[one.request].add(one.id)
            if not one.is_right:
                faults.append(f"wrong: the output of {one.id} is another input's")
        elif one.status and one.status not in AWAY and not _is_allowed(one):
            faults.append(f"refused: {one.request} with {one.status} {one.code}")
    for request, several in ids.items():
        if len(several) > 1:
            faults.append(f"double: {request} was answered with {len(several)} predictions")
    open_keys = {one.key for one in attempts if one.key} - {
        one.key for one in attempts if one.is_answered
    }
    return faults + [f"open: the request with key {key} was never answered" for key in open_keys]


def _is_allowed(refusal: Attempt) -> bool:
    return refusal.code in refusal.expects or (refusal.status, refusal.code) in REFUSALS


def _check_keys(usages: Sequence[Usage]) -> list[str]:
    counts = Counter(one.idempotency_key for one in usages if one.idempotency_key)
    faults = [f"double: key {key} is booked {n} times" for key, n in counts.items() if n > 1]
    prints = Counter(one.fingerprint for one in usages if one.fingerprint)
    return faults + [
        f"double: request {one.hex()[:8]} and its retries are booked {n} times"
        for one, n in prints.items()
        if n > 1
    ]


def _match_undelivered(
    attempts: Sequence[Attempt], usages: Sequence[Usage], late_s: float
) -> tuple[int, list[str]]:
    """Bookings that nobody was answered: each needs a connection of its own that died.

    Only a request without a key may lose its answer for good. The id of a prediction begins
    with the millisecond of its request's arrival, which must lie within the attempt.
    """
    died = [one for one in attempts if one.status is None and one.key is None]
    faults, matched = [], 0
    for usage in sorted(usages, key=lambda one: one.prediction_id):
        arrived_at = (usage.prediction_id.int >> 80) / 1000
        fitting = [
            one for one in died if one.sent_at - _CLOCK_S <= arrived_at <= one.ended_at + late_s
        ]
        if usage.idempotency_key or not fitting:
            faults.append(f"unanswered: {usage.prediction_id} is booked and nobody was answered")
        else:
            died.remove(min(fitting, key=lambda one: one.ended_at))
            matched += 1
    return matched, faults


def _check_amounts(
    answers: Sequence[Attempt],
    usages: Sequence[Usage],
    entries: Sequence[Entry],
    *,
    nanos: Fraction,
) -> list[str]:
    """Told, booked and taken from the wallet: the price, once for each prediction."""
    faults = [
        f"amount: {one.id} was told to cost {one.cost_nanos}"
        for one in answers
        if one.cost_nanos != nanos
    ]
    faults += [
        f"amount: {one.prediction_id} is booked with {one.gross_nanos}"
        for one in usages
        if one.gross_nanos != nanos
    ]
    return faults + _check_transfers(usages, entries)


def _check_transfers(usages: Sequence[Usage], entries: Sequence[Entry]) -> list[str]:
    """A transfer takes once, and what the usages cost that it stands for."""
    costs: Counter[UUID | None] = Counter()
    for one in usages:
        costs[one.transfer_id] += one.gross_nanos
    taken = Counter(one.transfer_id for one in entries)
    faults = [f"double: {one} was taken {n} times" for one, n in taken.items() if n > 1]
    faults += [
        f"lost: {one.prediction_id} was not taken from the wallet"
        for one in usages
        if one.transfer_id not in taken
    ]
    for one in entries:
        if one.transfer_id not in costs:
            faults.append(f"unanswered: {one.transfer_id} was taken, and is no usage")
        elif -one.amount_nanos != costs[one.transfer_id]:
            cost = costs[one.transfer_id]
            faults.append(f"amount: {one.transfer_id} took {-one.amount_nanos} for {cost}")
    return faults
