from __future__ import annotations

from django.contrib import admin

from billing.models import ReconcileDifference, ReconcileRun
from marketplace.admin.readonly import ReadOnlyAdmin


@admin.register(ReconcileRun)
class ReconcileRunAdmin(ReadOnlyAdmin):
    list_display = ["started_at", "since", "until", "state", "difference_count"]
    list_filter = ["state"]
    ordering = ["-started_at"]


@admin.register(ReconcileDifference)
class ReconcileDifferenceAdmin(ReadOnlyAdmin):
    list_display = ["happened_at", "kind", "fault", "explanation", "our_id", "stripe_id"]
    list_filter = ["kind", "fault", "explanation"]
    search_fields = ["our_id", "stripe_id"]
    ordering = ["-happened_at"]
