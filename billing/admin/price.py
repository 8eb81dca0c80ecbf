from __future__ import annotations

from django.contrib import admin

from billing.models import Price
from marketplace.admin.readonly import ReadOnlyAdmin
from marketplace.core.money import format_nanos


@admin.register(Price)
class PriceAdmin(ReadOnlyAdmin):
    list_display = [
        *("model", "account", "per_prediction", "creator_share", "valid_from", "valid_until"),
    ]
    search_fields = ["model__name", "model__account__slug"]
    list_select_related = ["model__account", "account"]
    ordering = ["-valid_from"]

    @admin.display(description="Per prediction")
    def per_prediction(self, price: Price) -> str:
        return format_nanos(price.nanos_per_prediction)

    @admin.display(description="Creator's share")
    def creator_share(self, price: Price) -> str:
        return f"{price.creator_share_bps / 100:g} %"
