"""Read what comparisons with Stripe found."""

from __future__ import annotations

from uuid import UUID

from django.db.models import Case, Q, QuerySet, Value, When

from billing.models import ReconcileDifference, ReconcileRun
from marketplace.core.money import format_nanos

RUNS_SHOWN = 20


def list_runs() -> list[ReconcileRun]:
    """The last runs, newest first."""
    return list(
        ReconcileRun.objects.select_related("started_by").order_by("-started_at")[:RUNS_SHOWN]
    )


def list_differences(run: ReconcileRun) -> QuerySet[ReconcileDifference]:
    """What a run saw last, the unexplained first."""
    return _unexplained_first(ReconcileDifference.objects.filter(last_run=run, resolved_at=None))


def list_open_differences() -> QuerySet[ReconcileDifference]:
    """What the last look at each still saw, the unexplained first, then the newest."""
    return _unexplained_first(ReconcileDifference.objects.filter(resolved_at=None))


def find_difference(difference_id: UUID) -> ReconcileDifference | None:
    """One difference with the people who said something of it."""
    rows = ReconcileDifference.objects.select_related(
        "marked_by", "mark_approved_by", "first_run", "last_run"
    )
    return rows.filter(pk=difference_id).first()


def describe(row: ReconcileDifference) -> str:
    """A difference in one line."""
    sides = []
    if row.our_id:
        amount = "" if row.our_nanos is None else f" ({format_nanos(row.our_nanos)})"
        sides.append(f"ours {row.our_id}{amount}")
    if row.stripe_id:
        amount = "" if row.stripe_nanos is None else f" ({format_nanos(row.stripe_nanos)})"
        sides.append(f"Stripe's {row.stripe_id}{amount}")
    word = row.explanation or "UNEXPLAINED"
    note = f": {row.note}" if row.note else ""
    return f"{word:18} {row.kind} {row.fault}, {', '.join(sides)}{note} [{row.pk}]"


def _unexplained_first(rows: QuerySet[ReconcileDifference]) -> QuerySet[ReconcileDifference]:
    order = Case(When(Q(explanation=""), then=Value(0)), default=Value(1))
    return rows.order_by(order, "-happened_at", "id")


def tally_rows(run: ReconcileRun) -> list[dict[str, object]]:
    """Counts and sums of a run, by kind, with the kinds' names."""
    names = dict(ReconcileDifference.Kind.choices)
    return [{"name": names.get(kind, kind), **tally} for kind, tally in run.counts.items()]
