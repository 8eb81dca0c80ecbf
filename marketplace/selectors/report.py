"""Read what was reported about models, and what was done about it."""

from __future__ import annotations

from uuid import UUID

from django.db.models import Count, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce

from marketplace.models import AIModel, Report, Takedown
from marketplace.selectors.found import get_one

State = Report.State


def list_reports(*, is_open: bool) -> QuerySet[Report]:
    """Open ones oldest first, or decided ones newest first, with the open ones of each model."""
    same = (
        Report.objects.filter(model=OuterRef("model"), state=State.OPEN)
        .order_by()
        .values("model")
        .annotate(count=Count("pk"))
        .values("count")
    )
    rows = Report.objects.select_related("model__account", "reporter", "decided_by").annotate(
        open_count=Coalesce(Subquery(same), 0)
    )
    if is_open:
        return rows.filter(state=State.OPEN).order_by("created_at", "pk")
    return rows.exclude(state=State.OPEN).order_by("-decided_at", "pk")


def get_report(report_id: UUID) -> Report:
    """One of them.

    Raises:
        NotFoundError: None of this id.
    """
    rows = Report.objects.select_related("model__account", "reporter", "decided_by", "takedown")
    return get_one(rows.filter(pk=report_id), "No such report.")


def list_reports_of(model: AIModel) -> QuerySet[Report]:
    """Everything that was reported about a model, the latest first."""
    return model.reports.select_related("reporter", "decided_by").order_by("-created_at", "pk")


def list_appeals() -> QuerySet[Takedown]:
    """Answers of owners that wait for ours, oldest first."""
    return (
        Takedown.objects.filter(appealed_at__isnull=False, answered_at=None)
        .select_related("model__account", "decided_by", "appealed_by")
        .order_by("appealed_at", "pk")
    )


def get_takedown(takedown_id: UUID) -> Takedown:
    """A warning or suspension.

    Raises:
        NotFoundError: None of this id.
    """
    rows = Takedown.objects.select_related(
        "model__account", "decided_by", "appealed_by", "answered_by"
    )
    return get_one(rows.filter(pk=takedown_id), "No such decision.")


def find_takedown(model: AIModel) -> Takedown | None:
    """The last warning or suspension of a model that still stands."""
    rows = model.takedowns.filter(Q(kind=Takedown.Kind.WARNING) | Q(lifted_at=None)).select_related(
        "model__account", "appealed_by"
    )
    return rows.order_by("-created_at").first()


def list_takedowns(model: AIModel) -> QuerySet[Takedown]:
    """All warnings and suspensions of a model, the latest first."""
    return model.takedowns.select_related("decided_by", "answered_by").order_by("-created_at")
