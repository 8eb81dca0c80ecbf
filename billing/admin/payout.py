"""Payouts in the console: read, begun by a button, and taken back with a reason."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, render
from django.urls import path, reverse

from billing.models import (
    ConnectAccount,
    CreatorReserve,
    PayoutItem,
    PayoutReversal,
    PayoutRun,
    Release,
)
from billing.selectors.payout import sum_reversed_cents
from billing.services.payout import start_run, take_back
from billing.services.release import RESERVE_DAYS_MAX, set_reserve_days
from marketplace.admin.decision import ReasonForm
from marketplace.admin.readonly import ReadOnlyAdmin, ReadOnlyInline
from marketplace.context import actor_of
from marketplace.core.errors import MarketplaceError
from marketplace.core.money import format_nanos
from marketplace.models import Account


class ConfirmForm(forms.Form):
    """Nothing but the second look."""


class TakeBackForm(ReasonForm):
    """How much of a paid item comes back, and whose loss it is."""

    amount_dollars = forms.DecimalField(
        label="Amount", min_value=Decimal("0.01"), max_digits=10, decimal_places=2
    )
    is_forfeited = forms.BooleanField(
        label="The creator loses this amount (else it becomes payable again)",
        required=False,
        initial=True,
    )
    field_order = ("amount_dollars", "is_forfeited", "reason")

    @property
    def amount_cents(self) -> int:
        """The amount in cents, of a valid form."""
        return int(self.cleaned_data["amount_dollars"] * 100)


class ReserveDaysForm(ReasonForm):
    """How long one creator's earnings wait."""

    creator = forms.SlugField(label="Account", max_length=39)
    days = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=RESERVE_DAYS_MAX,
        help_text="Empty: as long as the settings say.",
    )
    field_order = ("creator", "days", "reason")

    def clean_creator(self) -> Account:
        """The account of that name."""
        found = Account.objects.filter(slug=self.cleaned_data["creator"]).first()
        if found is None:
            raise forms.ValidationError("There is no account of this name.")
        return found


class DeedMixin:
    """A page with a form between a button and what it does."""

    button = ""
    button_view = ""

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """The list, with the button."""
        context = {**(extra_context or {}), "deed": self.button, "deed_view": self.button_view}
        return super().changelist_view(request, context)  # type: ignore[misc]

    def do(
        self,
        request: HttpRequest,
        form: forms.Form,
        *,
        title: str,
        warning: str,
        deed: Callable[[forms.Form], str],
    ) -> HttpResponse:
        """Ask, then do it; `deed` answers what was done, or raises a MarketplaceError."""
        if not self.has_view_permission(request):  # type: ignore[attr-defined]
            raise PermissionDenied
        opts = self.model._meta  # type: ignore[attr-defined]
        back = reverse(f"admin:billing_{opts.model_name}_changelist")
        if request.method == "POST" and form.is_valid():
            try:
                messages.success(request, deed(form))
            except MarketplaceError as error:
                told = [error.detail, *(one["detail"] for one in error.errors)]
                messages.error(request, " ".join(told))
            return HttpResponseRedirect(back)
        context = {
            **self.admin_site.each_context(request),  # type: ignore[attr-defined]
            "title": title,
            "warning": warning,
            "button": title,
            "form": form,
            "back": back,
            "opts": opts,
        }
        return render(
            request, "admin/billing/deed.html", context, status=422 if form.errors else 200
        )


@admin.register(ConnectAccount)
class ConnectAccountAdmin(ReadOnlyAdmin):
    list_display = ["creator", "country", "transfers_status", "requirements", "checked_at"]
    list_filter = ["transfers_status", "country"]
    search_fields = ["creator__slug", "connect_account_id"]
    list_select_related = ["creator"]
    ordering = ["creator__slug"]


@admin.register(CreatorReserve)
class CreatorReserveAdmin(DeedMixin, ReadOnlyAdmin):
    list_display = ["creator", "days", "released_until"]
    search_fields = ["creator__slug"]
    list_select_related = ["creator"]
    ordering = ["creator__slug"]
    change_list_template = "admin/billing/deed_list.html"
    button = "Set a reserve period"
    button_view = "admin:billing_creatorreserve_set"

    def get_urls(self) -> list[Any]:
        """The form besides."""
        view = self.admin_site.admin_view(self.set_days)
        return [path("set/", view, name="billing_creatorreserve_set"), *super().get_urls()]

    def set_days(self, request: HttpRequest) -> HttpResponse:
        """Make one creator wait for another time."""

        def deed(form: forms.Form) -> str:
            asked = form.cleaned_data
            set_reserve_days(
                actor_of(request), asked["creator"], days=asked["days"], reason=asked["reason"]
            )
            return f"{asked['creator']}: done."

        return self.do(
            request,
            ReserveDaysForm(request.POST or None),
            title=self.button,
            warning="Days that were released stay released; all others wait as long as you say.",
            deed=deed,
        )


@admin.register(Release)
class ReleaseAdmin(ReadOnlyAdmin):
    list_display = ["creator", "day", "amount", "entries", "created_at"]
    list_filter = ["day"]
    search_fields = ["creator__slug"]
    list_select_related = ["creator"]
    ordering = ["-day", "creator__slug"]

    @admin.display(description="Amount")
    def amount(self, release: Release) -> str:
        return format_nanos(release.amount_nanos)


class ItemInline(ReadOnlyInline):
    model = PayoutItem
    fields = ["creator", "amount_cents", "state", "reason", "connect_transfer_id"]


@admin.register(PayoutRun)
class PayoutRunAdmin(DeedMixin, ReadOnlyAdmin):
    list_display = ["created_at", "payday", "started_by"]
    list_select_related = ["started_by"]
    inlines = [ItemInline]
    ordering = ["-created_at"]
    change_list_template = "admin/billing/deed_list.html"
    button = "Start a run now"
    button_view = "admin:billing_payoutrun_start"

    def get_urls(self) -> list[Any]:
        """The button besides."""
        view = self.admin_site.admin_view(self.start)
        return [path("start/", view, name="billing_payoutrun_start"), *super().get_urls()]

    def start(self, request: HttpRequest) -> HttpResponse:
        """Begin a run."""

        def deed(_form: forms.Form) -> str:
            count = start_run(actor_of(request)).items.count()
            return f"The run has begun with {count} payouts."

        return self.do(
            request,
            ConfirmForm(request.POST if request.method == "POST" else None),
            title=self.button,
            warning="Everybody who can be paid is paid what is payable, not waiting for payday.",
            deed=deed,
        )


class ReversalInline(ReadOnlyInline):
    model = PayoutReversal


@admin.register(PayoutItem)
class PayoutItemAdmin(DeedMixin, ReadOnlyAdmin):
    list_display = ["created_at", "creator", "amount", "state", "reason", "connect_transfer_id"]
    list_filter = ["state", "created_at"]
    search_fields = ["creator__slug", "=connect_transfer_id"]
    list_select_related = ["creator"]
    inlines = [ReversalInline]
    ordering = ["-created_at"]
    change_form_template = "admin/billing/payout_item.html"

    def get_urls(self) -> list[Any]:
        """The button besides."""
        view = self.admin_site.admin_view(self.take_back)
        route = "<path:object_id>/take-back/"
        return [path(route, view, name="billing_payoutitem_take_back"), *super().get_urls()]

    @admin.display(description="Amount")
    def amount(self, item: PayoutItem) -> str:
        return format_nanos(item.amount_nanos)

    def take_back(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Take back part or all of a paid item."""
        item = get_object_or_404(PayoutItem, pk=object_id)
        left_cents = item.amount_cents - sum_reversed_cents(item)

        def deed(form: forms.Form) -> str:
            assert isinstance(form, TakeBackForm), "made below"
            row = take_back(
                actor_of(request),
                item,
                amount_cents=form.amount_cents,
                is_forfeited=form.cleaned_data["is_forfeited"],
                reason=form.cleaned_data["reason"],
            )
            return f"{format_nanos(row.amount_nanos)} of {item} are being taken back."

        return self.do(
            request,
            TakeBackForm(
                request.POST if request.method == "POST" else None,
                initial={"amount_dollars": Decimal(left_cents) / 100},
            ),
            title="Take back",
            warning=(
                f"{format_nanos(item.amount_nanos)} went to {item.creator}. What its account at "
                "Stripe does not have any more is made up for by new earnings."
            ),
            deed=deed,
        )


@admin.register(PayoutReversal)
class PayoutReversalAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "item", "amount", "is_forfeited", "state", "reason", "note"]
    list_filter = ["state", "is_forfeited"]
    list_select_related = ["item__creator"]
    ordering = ["-created_at"]

    @admin.display(description="Amount")
    def amount(self, row: PayoutReversal) -> str:
        return format_nanos(row.amount_nanos)
