from __future__ import annotations

from django.contrib import admin

from billing.models import Royalty, RoyaltyShare
from marketplace.admin.readonly import ReadOnlyAdmin


@admin.register(Royalty)
class RoyaltyAdmin(ReadOnlyAdmin):
    list_display = ["version", "parent", "beneficiary", "bps", "created_at", "ended_at"]
    list_filter = ["created_at"]
    ordering = ["-created_at"]


@admin.register(RoyaltyShare)
class RoyaltyShareAdmin(ReadOnlyAdmin):
    list_display = ["prediction_id", "royalty", "amount_nanos"]
    ordering = ["-id"]
