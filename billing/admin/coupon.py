from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest

from billing.admin.decision import MakingAdmin
from billing.forms.price_page import end_of
from billing.models import Coupon, CouponRedemption
from billing.services.coupon import USES_MAX, end_coupon, make_credit_coupon
from marketplace.admin.readonly import ReadOnlyAdmin
from marketplace.context import actor_of
from marketplace.core.money import format_nanos
from marketplace.forms.limits import DollarField
from marketplace.selectors.found import get_one


class CreditCouponForm(forms.Form):
    """A code that gives credit."""

    code = forms.CharField(max_length=32)
    credit_nanos = DollarField(label="Credit in dollars", help_text="Paid by the platform.")
    uses_max = forms.IntegerField(label="Accounts at most", min_value=1, max_value=USES_MAX)
    until = forms.DateField(label="Last day", widget=forms.DateInput(attrs={"type": "date"}))


class CodeForm(forms.Form):
    """A code."""

    code = forms.CharField(max_length=32)


@admin.register(Coupon)
class CouponAdmin(MakingAdmin):
    list_display = ["code", "gives", "model", "uses", "uses_max", "valid_until", "ended_at"]
    search_fields = ["code"]
    list_select_related = ["model__account"]
    ordering = ["-created_at"]
    pages = {
        "make": ("Make a coupon for credit", CreditCouponForm),
        "end": ("End a coupon", CodeForm),
    }

    def make(self, request: HttpRequest, answers: dict[str, Any]) -> Coupon:
        """See `make_credit_coupon`."""
        valid_until = end_of(answers["until"])
        assert valid_until is not None
        return make_credit_coupon(
            actor_of(request),
            code=answers["code"],
            credit_nanos=answers["credit_nanos"],
            uses_max=answers["uses_max"],
            valid_until=valid_until,
        )

    def end(self, request: HttpRequest, answers: dict[str, Any]) -> Coupon:
        """Nobody can use it any more."""
        coupon = get_one(
            Coupon.objects.filter(code=answers["code"].strip().upper()), "There is no such coupon."
        )
        end_coupon(actor_of(request), coupon)
        return coupon

    @admin.display(description="Gives")
    def gives(self, coupon: Coupon) -> str:
        if coupon.credit_nanos is not None:
            return format_nanos(coupon.credit_nanos)
        return f"{(coupon.off_bps or 0) / 100:g} % off"


@admin.register(CouponRedemption)
class CouponRedemptionAdmin(ReadOnlyAdmin):
    list_display = ["coupon", "account", "redeemed_by", "redeemed_at"]
    search_fields = ["coupon__code", "account__slug"]
    list_select_related = ["coupon", "account"]
    ordering = ["-redeemed_at"]
