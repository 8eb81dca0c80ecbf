"""Read how far a version is from its baseline: from blocks alone, which hide who asked what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from inference.core import drift
from inference.models import DriftBaseline, DriftBlock, DriftWatch
from marketplace.core.clock import utc_now
from marketplace.core.errors import InvalidInputError, NotFoundError
from marketplace.models import AIModel, ModelVersion
from strongroom.errors import InterfaceError
from strongroom.interface import Interface

# A version is compared with so many of its own first days.
FIRST_DAYS = timedelta(days=7)
WINDOWS = {"24h": timedelta(hours=24), "7d": timedelta(days=7)}
WINDOW_LABELS = {"24h": "24 hours", "7d": "7 days"}
DEFAULT_WINDOW = "24h"
VERSIONS_MAX = 50
# A row of numbers that is charted; the others stand in the table and the files.
CHARTS_MAX = 16
EXPORT_COLUMNS = (
    *("side", "field", "measure", "state", "distance", "chance"),
    *("group", "baseline_percent", "current_percent"),
)

# Worst first.
_ORDER = {drift.SHIFTED: 0, drift.MOVED: 1, drift.TOO_LITTLE: 2, drift.STABLE: 3}
STATES = {
    drift.SHIFTED: "Shifted",
    drift.MOVED: "Moved",
    drift.STABLE: "Stable",
    drift.TOO_LITTLE: "Not enough data",
}


@dataclass(frozen=True, slots=True)
class Side:
    """What is compared: from when to when, and how many predictions."""

    starts_at: datetime
    ends_at: datetime
    predictions: int
    sketch: drift.Sketch
    is_pinned: bool = False

    @property
    def count_text(self) -> str:
        """How many predictions, for people."""
        return f"{self.predictions:,}"


@dataclass(frozen=True, slots=True)
class Line:
    """One measure of a field, as people read it."""

    comparison: drift.Comparison

    @property
    def measure(self) -> drift.Measure:
        """What was counted."""
        return self.comparison.measure

    @property
    def state(self) -> str:
        """The word of its state."""
        return STATES[self.comparison.state]

    @property
    def tone(self) -> str:
        """How it is coloured, beside its word."""
        tones = {drift.SHIFTED: "bad", drift.MOVED: "warn", drift.STABLE: "good"}
        return tones.get(self.comparison.state, "")

    @property
    def distance(self) -> str:
        """The index with two digits; a dash where nothing can be said."""
        found = self.comparison
        is_known = found.baseline_count and found.current_count
        return f"{found.distance:.2f}" if is_known else "—"

    @property
    def baseline(self) -> list[tuple[str, int]]:
        """Whole percents by group: finer ones would tell of single predictions."""
        return [(label, before) for label, before, _ in self.shares]

    @property
    def current(self) -> list[tuple[str, int]]:
        """The same, now."""
        return [(label, now) for label, _, now in self.shares]

    @property
    def most(self) -> int:
        """The largest percent of both, for charts of one scale."""
        return max((share for _, *both in self.shares for share in both), default=0)

    @property
    def shares(self) -> list[tuple[str, int, int]]:
        """Of each group its label, and whole percents before and now."""
        found = self.comparison
        return [
            (
                one.label,
                _percent(one.baseline, found.baseline_count),
                _percent(one.current, found.current_count),
            )
            for one in found.groups
        ]


@dataclass(frozen=True, slots=True)
class Report:
    """A version against its baseline; a side is None where too little is known of it."""

    version: ModelVersion
    window: str
    baseline: Side | None
    current: Side | None
    lines: tuple[Line, ...] = ()

    @property
    def charted(self) -> Sequence[Line]:
        """Those that have charts, the worst first."""
        return [one for one in self.lines if len(one.comparison.groups) > 1][:CHARTS_MAX]


def is_watched(model: AIModel) -> bool:
    """Whether its predictions are counted by what they look like."""
    return DriftWatch.objects.filter(model=model).exists()


def list_versions(model: AIModel) -> list[ModelVersion]:
    """The versions that may be compared: the approved ones, newest first."""
    found = model.versions.filter(state=ModelVersion.State.APPROVED)
    return list(found.order_by("-number")[:VERSIONS_MAX])


def get_version(model: AIModel, number: str) -> ModelVersion:
    """The approved version of a number.

    Raises:
        NotFoundError: There is none.
    """
    for one in list_versions(model):
        if str(one.number) == number:
            return one
    raise NotFoundError("No such version.")


def find_version(model: AIModel) -> ModelVersion | None:
    """The newest version with counts; else the newest one."""
    versions = list_versions(model)
    counted = set(
        DriftBlock.objects.filter(version_id__in=[one.pk for one in versions])
        .values_list("version_id", flat=True)
        .distinct()
    )
    return next((one for one in versions if one.pk in counted), versions[0] if versions else None)


def find_window(name: str) -> str:
    """The window of that name; of none, the usual one.

    Raises:
        InvalidInputError: There is none of that name.
    """
    if name and name not in WINDOWS:
        detail = f"Must be one of {', '.join(WINDOWS)}."
        raise InvalidInputError(errors=[{"pointer": "/window", "detail": detail}])
    return name or DEFAULT_WINDOW


def read_report(version: ModelVersion, window: str, *, now: datetime | None = None) -> Report:
    """Compare what a version was asked and has answered with its baseline."""
    now = now or utc_now()
    baseline = read_baseline(version.pk)
    current = _read_current(version.pk, now - WINDOWS[window], baseline)
    try:
        measures = drift.Plan(Interface.parse(version.interface)).measures
    except InterfaceError:
        # One that cannot be run has no predictions.
        measures = ()
    before = baseline.sketch if baseline else {}
    after = current.sketch if current else {}
    lines = [
        Line(drift.compare(one, before.get(one.key, {}), after.get(one.key, {})))
        for one in measures
    ]
    lines.sort(key=lambda one: (_ORDER[one.comparison.state], -one.comparison.distance))
    return Report(version, window, baseline, current, tuple(lines))


def read_baseline(version_id: UUID) -> Side | None:
    """The pinned one; else the first days, as far as they are known."""
    rows = DriftBaseline.objects.filter(version_id=version_id, scheme=drift.SCHEME)
    kinds = {one.kind: one for one in rows}
    kept = kinds.get(DriftBaseline.Kind.PINNED) or kinds.get(DriftBaseline.Kind.FIRST)
    if kept is not None:
        is_pinned = kept.kind == DriftBaseline.Kind.PINNED
        sketch = drift.merge([kept.sketch])
        return Side(kept.starts_at, kept.ends_at, kept.predictions, sketch, is_pinned)
    blocks = DriftBlock.objects.filter(version_id=version_id, scheme=drift.SCHEME)
    first = blocks.order_by("starts_at").first()
    if first is None:
        return None
    early = blocks.filter(ends_at__lte=first.starts_at + FIRST_DAYS)
    return _join(list(early) or [first])


def _read_current(version_id: UUID, since: datetime, baseline: Side | None) -> Side | None:
    """What ended in the window, and is not in a baseline that still grows.

    A block is shown as a whole: that of a quiet model may have begun long before the window.
    """
    blocks = DriftBlock.objects.filter(
        version_id=version_id, scheme=drift.SCHEME, ends_at__gt=since
    )
    if baseline is not None:
        blocks = blocks.exclude(starts_at__gte=baseline.starts_at, ends_at__lte=baseline.ends_at)
    found = list(blocks)
    return _join(found) if found else None


def _join(blocks: Sequence[DriftBlock]) -> Side:
    return Side(
        min(one.starts_at for one in blocks),
        max(one.ends_at for one in blocks),
        sum(one.predictions for one in blocks),
        drift.merge(one.sketch for one in blocks),
    )


def measure_drift(model_id: UUID, now: datetime, *, count_min: int) -> int | None:
    """The largest distance of a day's versions in hundredths; None where nothing can be said.

    What chance explains counts as none.
    """
    recent = DriftBlock.objects.filter(model_id=model_id, ends_at__gt=now - WINDOWS["24h"])
    version_ids = set(recent.values_list("version_id", flat=True))
    worst: int | None = None
    for version in ModelVersion.objects.filter(pk__in=version_ids):
        report = read_report(version, "24h", now=now)
        if report.current is None or report.current.predictions < count_min:
            continue
        for line in report.lines:
            found = line.comparison
            if found.state == drift.TOO_LITTLE:
                continue
            distance = round(found.distance * 100) if found.distance >= found.chance else 0
            worst = max(worst or 0, distance)
    return worst


def list_export(report: Report) -> Iterator[dict[str, Any]]:
    """The rows of a file: a group of a measure each."""
    for line in report.lines:
        found = line.comparison
        is_known = bool(found.baseline_count and found.current_count)
        for label, before, now in line.shares:
            yield {
                "side": line.measure.side,
                "field": line.measure.name,
                "measure": line.measure.what,
                "state": found.state,
                "distance": round(found.distance, 4) if is_known else None,
                "chance": round(found.chance, 4) if is_known else None,
                "group": label,
                "baseline_percent": before,
                "current_percent": now,
            }


def _percent(count: int, total: int) -> int:
    return round(100 * count / total) if total else 0
