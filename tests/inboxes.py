"""What stands in the inboxes of a test's people."""

from __future__ import annotations

from marketplace.models import Notification


def list_told(kind: str) -> list[tuple[str, str]]:
    """Who was told what of a kind, as (address, title), in the order of telling."""
    rows = Notification.objects.filter(kind=kind).order_by("pk")
    return list(rows.values_list("person__email", "title"))
