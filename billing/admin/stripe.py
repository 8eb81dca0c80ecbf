from __future__ import annotations

from django.contrib import admin

from billing.models import StripeCall, StripeEvent, Topup
from marketplace.admin.readonly import ReadOnlyAdmin


@admin.register(Topup)
class TopupAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "account", "amount", "state", "credited_at"]
    list_filter = ["state"]
    search_fields = ["account__slug", "checkout_session_id", "payment_intent_id"]
    list_select_related = ["account"]
    exclude = ["checkout_url"]  # Whoever holds the address can pay it, or see who pays.
    ordering = ["-created_at"]

    @admin.display(description="Amount")
    def amount(self, topup: Topup) -> str:
        return f"${topup.amount_cents / 100:,.2f}"


@admin.register(StripeEvent)
class StripeEventAdmin(ReadOnlyAdmin):
    list_display = ["received_at", "type", "object_id", "state", "attempts"]
    list_filter = ["state", "type"]
    search_fields = ["id", "object_id"]
    ordering = ["-received_at"]


@admin.register(StripeCall)
class StripeCallAdmin(ReadOnlyAdmin):
    list_display = ["first_sent_at", "endpoint", "idempotency_key", "state", "finished_at"]
    list_filter = ["state", "endpoint"]
    search_fields = ["idempotency_key", "response_id"]
    ordering = ["-first_sent_at"]
