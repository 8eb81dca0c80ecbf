from __future__ import annotations

from django.contrib import admin

from billing.models import UsageCounter, UsageEvent
from marketplace.admin.readonly import ReadOnlyAdmin
from marketplace.core import ids
from marketplace.core.money import format_nanos


@admin.register(UsageEvent)
class UsageEventAdmin(ReadOnlyAdmin):
    list_display = [
        "occurred_at",
        "prediction",
        "account",
        "version",
        "units",
        "gross",
        "creator_part",
        "mode",
        "tag",
    ]
    list_filter = ["mode", "occurred_at"]
    search_fields = ["account__slug", "creator__slug"]
    list_select_related = ["account", "version__model__account"]
    ordering = ["-prediction_id"]

    @admin.display(description="Prediction")
    def prediction(self, event: UsageEvent) -> str:
        return ids.to_public(event.prediction_id)

    @admin.display(description="Gross")
    def gross(self, event: UsageEvent) -> str:
        return format_nanos(event.gross_nanos)

    @admin.display(description="Creator's part")
    def creator_part(self, event: UsageEvent) -> str:
        return format_nanos(event.creator_nanos)


@admin.register(UsageCounter)
class UsageCounterAdmin(ReadOnlyAdmin):
    list_display = ["account", "model", "starts_on", "units"]
    search_fields = ["account__slug", "model__name"]
    list_select_related = ["account", "model__account"]
    ordering = ["-starts_on"]
