"""What a comparison is about, and how two sides are paired; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from billing.models import ReconcileDifference

Kind = ReconcileDifference.Kind
Fault = ReconcileDifference.Fault
Explanation = ReconcileDifference.Explanation

# What one side knows for so long at the most before the other does: a webhook, a poll, the next
# turn of a task. Polls look every minute.
IN_FLIGHT_AGE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Period:
    """From a moment to another, which is not part of it; and when one looks."""

    since: datetime
    until: datetime
    now: datetime

    def __contains__(self, moment: datetime) -> bool:
        return self.since <= moment < self.until

    def is_young(self, moment: datetime) -> bool:
        """Whether the other side may not know of it yet."""
        return moment > self.now - IN_FLIGHT_AGE


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing on one side.

    Attributes:
        key: What both sides call it.
        id: Our row, or the object at Stripe.
        amount_nanos: As Stripe signs it: positive is money that came.
        happened_at: On its own side.
        owner: Whose it is, as Stripe calls the account; empty where it is not compared.
        state: What became of it, in words that both sides share.
    """

    key: str
    id: str
    amount_nanos: int
    happened_at: datetime
    owner: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the two sides do not agree about."""

    kind: Kind
    fault: Fault
    key: str
    happened_at: datetime
    our_id: str = ""
    stripe_id: str = ""
    our_nanos: int | None = None
    stripe_nanos: int | None = None
    explanation: Explanation = Explanation.NONE
    note: str = ""

    def explained(self, explanation: Explanation, note: str = "") -> Finding:
        """The same, with its explanation."""
        return replace(self, explanation=explanation, note=note or self.note)


@dataclass(slots=True)
class Tally:
    """Counts and sums of one kind."""

    ours: int = 0
    ours_nanos: int = 0
    stripe: int = 0
    stripe_nanos: int = 0
    matched: int = 0

    def as_dict(self) -> dict[str, int]:
        return {
            "ours": self.ours,
            "ours_nanos": self.ours_nanos,
            "stripe": self.stripe,
            "stripe_nanos": self.stripe_nanos,
            "matched": self.matched,
        }


@dataclass(slots=True)
class Comparison:
    """What one comparer found."""

    kind: Kind
    tally: Tally = field(default_factory=Tally)
    findings: list[Finding] = field(default_factory=list)


def pair(
    kind: Kind,
    ours: Iterable[Fact],
    stripes: Iterable[Fact],
    *,
    summed: Iterable[str] = (),
) -> Comparison:
    """Pair facts of the same key: each is to be once on either side, with the same amount.

    Args:
        kind: What is compared.
        ours: All of ours that may have a partner.
        stripes: All of Stripe's that may have one.
        summed: Keys of which each side may have several; their sums are compared.
    """
    found = Comparison(kind)
    sides: dict[str, tuple[list[Fact], list[Fact]]] = defaultdict(lambda: ([], []))
    for side, facts in enumerate((ours, stripes)):
        for fact in facts:
            sides[fact.key][side].append(fact)
    summed = frozenset(summed)
    for key in sorted(sides):
        mine, theirs = (
            sorted(one, key=lambda fact: (fact.happened_at, fact.id)) for one in sides[key]
        )
        found.tally.ours += len(mine)
        found.tally.ours_nanos += sum(fact.amount_nanos for fact in mine)
        found.tally.stripe += len(theirs)
        found.tally.stripe_nanos += sum(fact.amount_nanos for fact in theirs)
        if key in summed:
            mine, theirs = _sum(mine), _sum(theirs)
        new = _compare(kind, key, mine, theirs)
        found.findings += new
        if mine and theirs and not new:
            found.tally.matched += 1
    return found


def _sum(facts: list[Fact]) -> list[Fact]:
    if not facts:
        return []
    amount = sum(fact.amount_nanos for fact in facts)
    # What came and went again in whole is nothing.
    return [replace(facts[0], amount_nanos=amount)] if amount else []


def _compare(kind: Kind, key: str, mine: list[Fact], theirs: list[Fact]) -> list[Finding]:
    if not mine:
        return [_of_stripes(kind, Fault.MISSING_HERE, fact) for fact in theirs]
    if not theirs:
        return [_of_ours(kind, Fault.MISSING_AT_STRIPE, fact) for fact in mine]
    found = [_of_ours(kind, Fault.DUPLICATE, fact) for fact in mine[1:]]
    found += [_of_stripes(kind, Fault.DUPLICATE, fact) for fact in theirs[1:]]
    our, their = mine[0], theirs[0]
    both = Finding(
        kind,
        Fault.AMOUNT,
        key,
        min(our.happened_at, their.happened_at),
        our_id=our.id,
        stripe_id=their.id,
        our_nanos=our.amount_nanos,
        stripe_nanos=their.amount_nanos,
    )
    if our.amount_nanos != their.amount_nanos:
        found.append(both)
    if our.owner != their.owner:
        note = f"Ours is of {our.owner or 'nobody'}, Stripe's of {their.owner or 'nobody'}."
        found.append(replace(both, fault=Fault.OWNER, note=note))
    if our.state != their.state:
        note = f"Ours is {our.state or 'nothing'}, Stripe's {their.state or 'nothing'}."
        found.append(replace(both, fault=Fault.STATE, note=note))
    return found


def _of_ours(kind: Kind, fault: Fault, fact: Fact) -> Finding:
    return Finding(
        kind, fault, fact.key, fact.happened_at, our_id=fact.id, our_nanos=fact.amount_nanos
    )


def _of_stripes(kind: Kind, fault: Fault, fact: Fact) -> Finding:
    return Finding(
        kind, fault, fact.key, fact.happened_at, stripe_id=fact.id, stripe_nanos=fact.amount_nanos
    )
