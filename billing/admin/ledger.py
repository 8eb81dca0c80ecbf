from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from billing.models import Hold, LedgerAccount, Transfer, TransferEntry
from marketplace.admin.readonly import ReadOnlyAdmin, ReadOnlyInline
from marketplace.core.money import format_nanos


@admin.register(LedgerAccount)
class LedgerAccountAdmin(ReadOnlyAdmin):
    list_display = ["kind", "holder", "balance", "held", "created_at"]
    list_filter = ["kind"]
    search_fields = ["holder__slug"]
    list_select_related = ["holder"]
    ordering = ["kind", "holder__slug"]

    @admin.display(description="Balance")
    def balance(self, account: LedgerAccount) -> str:
        return format_nanos(account.posted_nanos)

    @admin.display(description="Reserved")
    def held(self, account: LedgerAccount) -> str:
        return format_nanos(account.held_nanos)


class EntryInline(ReadOnlyInline):
    model = TransferEntry
    fields = ["ledger_account", "amount"]
    readonly_fields = ["amount"]

    @admin.display(description="Amount")
    def amount(self, entry: TransferEntry) -> str:
        return format_nanos(entry.amount_nanos)


@admin.register(Transfer)
class TransferAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "kind", "moved", "idempotency_key"]
    list_filter = ["kind", "created_at"]
    search_fields = ["idempotency_key", "reference"]
    inlines = [EntryInline]
    ordering = ["-created_at"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Transfer]:
        return super().get_queryset(request).prefetch_related("entries")

    @admin.display(description="Moved")
    def moved(self, transfer: Transfer) -> str:
        amounts = [entry.amount_nanos for entry in transfer.entries.all()]
        return format_nanos(sum(amount for amount in amounts if amount > 0))


@admin.register(Hold)
class HoldAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "ledger_account", "amount", "state", "expires_at"]
    list_filter = ["state"]
    list_select_related = ["ledger_account__holder"]
    ordering = ["-created_at"]

    @admin.display(description="Amount")
    def amount(self, hold: Hold) -> str:
        return format_nanos(hold.amount_nanos)
