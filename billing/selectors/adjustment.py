"""Read what people moved, or want to move."""

from __future__ import annotations

from uuid import UUID

from django.db.models import Q, QuerySet

from billing.models import Adjustment
from marketplace.selectors.found import get_one


def list_adjustments(*, state: str = "", kind: str = "", account: str = "") -> QuerySet[Adjustment]:
    """Newest first; all of them, or what was chosen."""
    rows = _rows()
    if state:
        rows = rows.filter(state=state)
    if kind:
        rows = rows.filter(kind=kind)
    if account:
        rows = rows.filter(Q(source__holder__slug=account) | Q(target__holder__slug=account))
    return rows.order_by("-created_at", "-id")


def get_adjustment(adjustment_id: UUID) -> Adjustment:
    """One of them, with both accounts and people.

    Raises:
        NotFoundError: None of this id.
    """
    return get_one(_rows().filter(pk=adjustment_id), "No such adjustment.")


def count_pending() -> int:
    """How many wait for a second person."""
    return Adjustment.objects.filter(state=Adjustment.State.PENDING).count()


def _rows() -> QuerySet[Adjustment]:
    return Adjustment.objects.select_related(
        "source__holder", "target__holder", "created_by", "decided_by"
    )
