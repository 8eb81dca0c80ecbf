from __future__ import annotations

from django.contrib import admin

from inference.models import MetricCursor
from marketplace.admin.readonly import ReadOnlyAdmin


@admin.register(MetricCursor)
class MetricCursorAdmin(ReadOnlyAdmin):
    """How far the roll-up has come; one that does not move is a roll-up that does not run."""

    list_display = ["name", "reached_at", "updated_at"]
