from __future__ import annotations

from django.contrib import admin

from billing.models import BudgetAlert, KeySpend
from marketplace.admin.readonly import ReadOnlyAdmin
from marketplace.core.money import format_nanos


@admin.register(KeySpend)
class KeySpendAdmin(ReadOnlyAdmin):
    list_display = ["api_key_id", "period", "starts_on", "spent", "held"]
    list_filter = ["period"]
    search_fields = ["=api_key_id"]
    ordering = ["-starts_on", "api_key_id"]

    @admin.display(description="Spent")
    def spent(self, spend: KeySpend) -> str:
        return format_nanos(spend.spent_nanos)

    @admin.display(description="Reserved")
    def held(self, spend: KeySpend) -> str:
        return format_nanos(spend.held_nanos)


@admin.register(BudgetAlert)
class BudgetAlertAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "api_key", "period", "starts_on", "percent", "mailed_at"]
    list_filter = ["period", "percent"]
    search_fields = ["api_key__hint", "api_key__account__slug"]
    list_select_related = ["api_key"]
    ordering = ["-created_at"]
