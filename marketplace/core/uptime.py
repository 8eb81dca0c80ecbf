"""Uptime by day: how much of what was measured went well, and how a row of days is drawn.

A share is of what was measured: a day of which nothing is known has none, and what is not known
counts for neither side. Shares are never rounded up to more than they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

# What a row shows, and what a total is made of.
DAYS_SHOWN = 90
# Below this share, in thousandths of a percent, a day was a bad one.
MOSTLY = 99_000
# What a share is counted in.
WHOLE = 100_000

WORDS = {
    "full": "no trouble",
    "most": "some trouble",
    "low": "much trouble",
    "few": "too little to say",
    "none": "not measured",
}
# How high a cell is, in hundredths of its row: state is never a colour alone.
HEIGHTS = {"full": 100, "most": 75, "low": 45, "few": 22, "none": 12}
CELL_WIDTH, CELL_GAP, ROW_HEIGHT = 10, 3, 100


@dataclass(frozen=True, slots=True)
class Day:
    """What was counted on one day.

    Attributes:
        day: In UTC.
        good: What went well.
        degraded: What went, though not as it should; it counts as up, and is shown.
        bad: What did not.
        least: Below this count no share is told.
    """

    day: date
    good: int = 0
    degraded: int = 0
    bad: int = 0
    least: int = 1

    @property
    def total(self) -> int:
        """All that was measured."""
        return self.good + self.degraded + self.bad

    @property
    def share(self) -> int | None:
        """In thousandths of a percent, rounded down; None where too little was measured."""
        return share_of(self.good + self.degraded, self.total) if self._is_told else None

    @property
    def _is_told(self) -> bool:
        return self.total >= max(self.least, 1)

    @property
    def state(self) -> str:
        """One of `WORDS`."""
        if self.total == 0:
            return "none"
        if not self._is_told:
            return "few"
        if self.bad == 0 and self.degraded == 0:
            return "full"
        share = self.share
        assert share is not None
        return "most" if share >= MOSTLY else "low"

    @property
    def text(self) -> str:
        """The day in words."""
        word = WORDS[self.state]
        return word if self.share is None else f"{format_share(self.share)}, {word}"


@dataclass(frozen=True, slots=True)
class Cell:
    """A day of a drawn row."""

    day: Day
    x: int
    y: int
    height: int
    width: int = CELL_WIDTH - CELL_GAP


def share_of(good: int, total: int) -> int | None:
    """How much of it was good, in thousandths of a percent, rounded down."""
    return good * WHOLE // total if total else None


def format_share(share: int | None) -> str:
    """A share in percent with two decimals; all that is not whole is below 100."""
    return "—" if share is None else f"{share // 1000}.{share % 1000 // 10:02d} %"


def add_up(days: Iterable[Day]) -> int | None:
    """The share of all these days together; None where that is too little."""
    shown = list(days)
    total = Day(
        day=date.min,
        good=sum(one.good for one in shown),
        degraded=sum(one.degraded for one in shown),
        bad=sum(one.bad for one in shown),
        least=max((one.least for one in shown), default=1),
    )
    return total.share


def fill_days(found: Mapping[date, Day], until: date, count: int = DAYS_SHOWN) -> list[Day]:
    """A row that ends with `until`; days of which nothing was found stand there empty."""
    days = [until - timedelta(days=back) for back in reversed(range(count))]
    return [found.get(day) or Day(day) for day in days]


def lay_cells(days: Sequence[Day]) -> list[Cell]:
    """Where each day stands in the drawing."""
    return [
        Cell(
            day=one,
            x=index * CELL_WIDTH,
            y=ROW_HEIGHT - HEIGHTS[one.state],
            height=HEIGHTS[one.state],
        )
        for index, one in enumerate(days)
    ]


def describe_days(days: Sequence[Day]) -> str:
    """The row in a sentence, for those who do not see it."""
    counts = {state: sum(one.state == state for one in days) for state in WORDS}
    told = [f"{WORDS[state]} on {count}" for state, count in counts.items() if count]
    return f"{len(days)} days: {', '.join(told)}." if told else "No days."


def list_legend() -> list[tuple[str, str, int, int]]:
    """Each state of a day with its words, and where its cell begins and how high it is."""
    return [(one, WORDS[one], ROW_HEIGHT - HEIGHTS[one], HEIGHTS[one]) for one in WORDS]
