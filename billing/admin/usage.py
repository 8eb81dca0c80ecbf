from __future__ import annotations

from django.contrib import admin

from billing.models import UsageEvent, UsageShare
from marketplace.admin.readonly import ReadOnlyAdmin, ReadOnlyInline
from marketplace.core import ids
from marketplace.core.money import format_nanos


class ShareInline(ReadOnlyInline):
    model = UsageShare
    fields = ["role", "ledger_account", "amount"]
    readonly_fields = ["amount"]

    @admin.display(description="Amount")
    def amount(self, share: UsageShare) -> str:
        return format_nanos(share.amount_nanos)


@admin.register(UsageEvent)
class UsageEventAdmin(ReadOnlyAdmin):
    list_display = ["occurred_at", "prediction", "account", "version", "units", "gross", "mode"]
    list_filter = ["mode", "occurred_at"]
    search_fields = ["account__slug", "creator__slug"]
    list_select_related = ["account", "version__model__account"]
    inlines = [ShareInline]
    ordering = ["-prediction_id"]

    @admin.display(description="Prediction")
    def prediction(self, event: UsageEvent) -> str:
        return ids.to_public(event.prediction_id)

    @admin.display(description="Gross")
    def gross(self, event: UsageEvent) -> str:
        return format_nanos(event.gross_nanos)
