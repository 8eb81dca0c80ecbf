from __future__ import annotations

from django.contrib import admin

from inference.models import SLO
from marketplace.admin.readonly import ReadOnlyAdmin


@admin.register(SLO)
class SLOAdmin(ReadOnlyAdmin):
    """What creators promise of their models."""

    list_display = ["model", "availability_target", "latency_ms", "window_days", "updated_at"]
    search_fields = ["model__name", "model__account__slug"]
    list_select_related = ["model__account"]
