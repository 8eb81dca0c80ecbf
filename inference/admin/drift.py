from __future__ import annotations

from django.contrib import admin

from inference.models import DriftBlock, DriftWatch
from marketplace.admin.readonly import ReadOnlyAdmin


@admin.register(DriftWatch)
class DriftWatchAdmin(ReadOnlyAdmin):
    """Of which models it is counted what their predictions look like."""

    list_display = ["model", "created_at"]
    search_fields = ["model__name", "model__account__slug"]
    list_select_related = ["model__account"]


@admin.register(DriftBlock)
class DriftBlockAdmin(ReadOnlyAdmin):
    """Blocks; one that is late is a worker that does not run, or too few who ask."""

    list_display = ["version_id", "starts_at", "ends_at", "predictions"]
    exclude = ["sketch"]
    ordering = ["-ends_at"]
