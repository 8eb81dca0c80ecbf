from __future__ import annotations

from django.contrib import admin

from billing.models import (
    AccountFreeze,
    AutoTopup,
    BalanceAlert,
    Dispute,
    PaymentDecline,
    PaymentMail,
    PayoutHold,
    ReviewCase,
    ReviewSignal,
    SavedCard,
    TopupRefund,
)
from marketplace.admin.readonly import ReadOnlyAdmin


@admin.register(TopupRefund)
class TopupRefundAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "account", "net_cents", "tax_cents", "state", "settled_at"]
    list_filter = ["state"]
    search_fields = ["account__slug", "stripe_refund_id", "topup__payment_intent_id"]
    list_select_related = ["account"]
    ordering = ["-created_at"]


@admin.register(SavedCard)
class SavedCardAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "account", "brand", "last4", "is_default", "removed_at"]
    search_fields = ["account__slug", "payment_method_id", "fingerprint"]
    list_select_related = ["account"]
    ordering = ["-created_at"]


@admin.register(AutoTopup)
class AutoTopupAdmin(ReadOnlyAdmin):
    list_display = ["account", "is_enabled", "threshold_cents", "amount_cents", "off_reason"]
    list_filter = ["is_enabled", "off_reason"]
    search_fields = ["account__slug"]
    list_select_related = ["account"]


@admin.register(BalanceAlert)
class BalanceAlertAdmin(ReadOnlyAdmin):
    list_display = ["account", "threshold_cents", "crossed_at", "mailed_at"]
    search_fields = ["account__slug"]
    list_select_related = ["account"]


@admin.register(PaymentMail)
class PaymentMailAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "account", "kind", "mailed_at"]
    list_filter = ["kind"]
    search_fields = ["account__slug"]
    list_select_related = ["account"]
    ordering = ["-created_at"]


@admin.register(Dispute)
class DisputeAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "account", "dispute_id", "amount_cents", "state", "reason"]
    list_filter = ["state", "reason"]
    search_fields = ["account__slug", "dispute_id"]
    list_select_related = ["account"]
    ordering = ["-created_at"]


@admin.register(ReviewCase)
class ReviewCaseAdmin(ReadOnlyAdmin):
    list_display = ["opened_at", "account", "state", "decided_by", "decided_at"]
    list_filter = ["state"]
    search_fields = ["account__slug"]
    list_select_related = ["account"]
    ordering = ["-opened_at"]


@admin.register(ReviewSignal)
class ReviewSignalAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "kind", "key", "case"]
    list_filter = ["kind"]
    search_fields = ["key"]
    list_select_related = ["case__account"]
    ordering = ["-created_at"]


@admin.register(AccountFreeze)
class AccountFreezeAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "account", "key", "lifted_at"]
    search_fields = ["account__slug", "key"]
    list_select_related = ["account"]
    ordering = ["-created_at"]


@admin.register(PayoutHold)
class PayoutHoldAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "account", "reason", "released_at"]
    list_filter = ["reason"]
    search_fields = ["account__slug"]
    list_select_related = ["account"]
    ordering = ["-created_at"]


@admin.register(PaymentDecline)
class PaymentDeclineAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "account", "charge_id"]
    search_fields = ["account__slug", "charge_id", "card_fingerprint"]
    list_select_related = ["account"]
    ordering = ["-created_at"]
