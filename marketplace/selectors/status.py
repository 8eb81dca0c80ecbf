"""Read how the parts of the platform are and were: from what was counted, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from marketplace.core.clock import utc_now
from marketplace.core.uptime import DAYS_SHOWN, Day, add_up, fill_days, format_share
from marketplace.models import Part, StatusDay

State = StatusDay.State

# One look a minute; three missed ones are no hiccup, and nothing is known of now.
STALE_AFTER = timedelta(minutes=4)
WORDS = {
    State.UP: "Up",
    State.DEGRADED: "Degraded",
    State.DOWN: "Down",
    State.UNKNOWN: "Not measured",
}
TONES = {State.UP: "good", State.DEGRADED: "warn", State.DOWN: "bad", State.UNKNOWN: ""}
# What each part's word rests on, for people.
MEASURES = {
    Part.SITE: "A page that reads the database is fetched at the public address.",
    Part.GATEWAY: "The API is asked at its public address whether it is ready.",
    Part.SERVING: "Nodes report every two seconds; those that serve are counted.",
    Part.ONBOARDING: "The key broker is asked, and no step waits for us too long.",
    Part.BILLING: "The ledger's last check, sealed receipts, and events of the payment provider.",
}


@dataclass(frozen=True, slots=True)
class PartStatus:
    """A part now and by day."""

    part: Part
    state: StatusDay.State
    sampled_at: datetime | None
    days: list[Day]

    @property
    def label(self) -> str:
        """Its name for people."""
        return self.part.label

    @property
    def word(self) -> str:
        """The state for people."""
        return WORDS[self.state]

    @property
    def tone(self) -> str:
        """The colour of its badge."""
        return TONES[self.state]

    @property
    def measure(self) -> str:
        """What the state rests on."""
        return MEASURES[self.part]

    @property
    def share(self) -> int | None:
        """Of all measured minutes of the row, in thousandths of a percent."""
        return add_up(self.days)

    @property
    def share_text(self) -> str:
        """The same for people."""
        return format_share(self.share)


@dataclass(frozen=True, slots=True)
class Summary:
    """All parts in one word and a sentence."""

    state: StatusDay.State
    text: str
    tone: str


def list_parts() -> list[PartStatus]:
    """Every part, in the page's order; what was not looked at lately is unknown."""
    now = utc_now()
    today = now.date()
    rows = StatusDay.objects.filter(day__gt=today - timedelta(days=DAYS_SHOWN)).order_by("day")
    by_part: dict[str, list[StatusDay]] = {}
    for row in rows:
        by_part.setdefault(row.part, []).append(row)
    return [_describe(part, by_part.get(part, []), now, today) for part in Part]


def summarize(parts: list[PartStatus]) -> Summary:
    """The worst of what is known, and how much is not known."""
    states = [one.state for one in parts]
    unknown = states.count(State.UNKNOWN)
    rest = f" {_count(unknown)} not measured now." if unknown else ""
    if unknown == len(states):
        return Summary(State.UNKNOWN, "Nothing is measured now.", "warn")
    if down := states.count(State.DOWN):
        return Summary(State.DOWN, f"{_count(down)} down.{rest}", "bad")
    if degraded := states.count(State.DEGRADED):
        return Summary(State.DEGRADED, f"{_count(degraded)} degraded.{rest}", "warn")
    if unknown:
        return Summary(State.UNKNOWN, f"What is measured is up.{rest}", "warn")
    return Summary(State.UP, "All parts are up.", "good")


def _count(count: int) -> str:
    return "One part is" if count == 1 else f"{count} parts are"


def _describe(part: Part, rows: list[StatusDay], now: datetime, today: date) -> PartStatus:
    last = rows[-1] if rows else None
    is_fresh = last is not None and last.sampled_at > now - STALE_AFTER
    days = {row.day: Day(row.day, good=row.up, degraded=row.degraded, bad=row.down) for row in rows}
    return PartStatus(
        part=part,
        state=State(last.state) if last is not None and is_fresh else State.UNKNOWN,
        sampled_at=last.sampled_at if last is not None else None,
        days=fill_days(days, today),
    )
