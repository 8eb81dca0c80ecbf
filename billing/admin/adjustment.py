from __future__ import annotations

from django.contrib import admin

from billing.models import Adjustment, UsageReversal
from marketplace.admin.readonly import ReadOnlyAdmin
from marketplace.core.ids import to_public
from marketplace.core.money import format_nanos


@admin.register(Adjustment)
class AdjustmentAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "kind", "amount", "source", "target", "state", "created_by"]
    list_filter = ["state", "kind"]
    search_fields = ["reference", "source__holder__slug", "target__holder__slug"]
    list_select_related = ["source__holder", "target__holder", "created_by"]
    ordering = ["-created_at"]

    @admin.display(description="Amount")
    def amount(self, adjustment: Adjustment) -> str:
        return format_nanos(adjustment.amount_nanos)


@admin.register(UsageReversal)
class UsageReversalAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "prediction", "account", "creator", "gross", "is_by_platform"]
    list_filter = ["is_by_platform"]
    search_fields = ["account__slug", "creator__slug"]
    list_select_related = ["account", "creator"]
    ordering = ["-created_at"]

    @admin.display(description="Prediction")
    def prediction(self, reversal: UsageReversal) -> str:
        return to_public(reversal.prediction_id)

    @admin.display(description="Given back")
    def gross(self, reversal: UsageReversal) -> str:
        return format_nanos(reversal.gross_nanos)
