from __future__ import annotations

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import URLPattern, path

from billing.forms.postpaid import TermsForm
from billing.models import (
    Invoice,
    InvoiceNotice,
    MeterReport,
    MeterSeal,
    PostpaidTerms,
    TaxDetails,
)
from billing.services import postpaid as services
from billing.services.adjustment import propose_write_off
from billing.services.invoice import accept_invoice
from billing.services.meter import NANOS_PER_MICRO
from marketplace.admin.decision import ReasonForm, confirm_with_form, confirm_with_reason
from marketplace.admin.readonly import ReadOnlyAdmin, ReadOnlyInline
from marketplace.context import actor_of
from marketplace.core.errors import MarketplaceError
from marketplace.core.money import NANOS_PER_CENT, NANOS_PER_DOLLAR, format_nanos
from marketplace.models import Account


class TermsReasonForm(TermsForm, ReasonForm):
    """Limit and days, and why."""

    field_order: tuple[str, ...] = ("limit_dollars", "due_days", "reason")


class OfferForm(TermsReasonForm):
    """The same for an account that has no terms to tick."""

    field_order = ("account", "limit_dollars", "due_days", "reason")
    account = forms.ModelChoiceField(
        Account.objects.order_by("slug"), to_field_name="slug", widget=forms.TextInput()
    )


@admin.register(PostpaidTerms)
class PostpaidTermsAdmin(ReadOnlyAdmin):
    list_display = ["account", "state", "wanted", "limit", "due_days", "paused_at", "created_at"]
    list_filter = ["state"]
    search_fields = ["account__slug"]
    list_select_related = ["account"]
    actions = ["approve", "change", "refuse", "close"]
    ordering = ["-created_at"]

    @admin.display(description="Wanted")
    def wanted(self, terms: PostpaidTerms) -> str:
        wanted_nanos = terms.wanted_limit_nanos
        return "—" if wanted_nanos is None else format_nanos(wanted_nanos)

    @admin.display(description="Limit")
    def limit(self, terms: PostpaidTerms) -> str:
        return format_nanos(terms.credit_limit_nanos)

    @admin.action(description="Approve the selected applications …")
    def approve(self, request: HttpRequest, rows: QuerySet[PostpaidTerms]) -> HttpResponse | None:
        return self._decide(
            request,
            rows,
            action="approve",
            title="Give credit",
            warning="They can owe so much before they pay, from now on.",
            button="Give credit",
            service=services.approve_terms,
        )

    @admin.action(description="Change limit and days of the selected terms …")
    def change(self, request: HttpRequest, rows: QuerySet[PostpaidTerms]) -> HttpResponse | None:
        return self._decide(
            request,
            rows,
            action="change",
            title="Change credit",
            warning="A limit below what is owed stops new predictions, and no running ones.",
            button="Change",
            service=services.change_terms,
        )

    @admin.action(description="Refuse the selected applications …")
    def refuse(self, request: HttpRequest, rows: QuerySet[PostpaidTerms]) -> HttpResponse | None:
        return confirm_with_reason(
            self,
            request,
            rows,
            action="refuse",
            title="Refuse credit",
            warning="They go on to pay from their wallets, and can ask again.",
            button="Refuse",
            decide=lambda terms, reason: services.refuse_terms(
                actor_of(request), terms, reason=reason
            ),
        )

    @admin.action(description="End the credit of the selected accounts …")
    def close(self, request: HttpRequest, rows: QuerySet[PostpaidTerms]) -> HttpResponse | None:
        return confirm_with_reason(
            self,
            request,
            rows,
            action="close",
            title="End credit",
            warning="Predictions are paid from the wallet at once. A last invoice follows.",
            button="End credit",
            decide=lambda terms, reason: services.close_terms(
                actor_of(request), terms, reason=reason
            ),
        )

    def get_urls(self) -> list[URLPattern]:
        own = path("offer/", self.admin_site.admin_view(self.offer), name="postpaid-offer")
        return [own, *super().get_urls()]

    def offer(self, request: HttpRequest) -> HttpResponse:
        """Offer credit to an account that did not ask."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        form = OfferForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                services.offer_terms(
                    actor_of(request),
                    form.cleaned_data["account"],
                    limit_nanos=form.limit_nanos,
                    due_days=form.cleaned_data["due_days"],
                    reason=form.cleaned_data["reason"],
                )
            except MarketplaceError as error:
                form.add_error(None, error.detail)
            else:
                messages.success(request, f"{form.cleaned_data['account']}: offered.")
                return redirect("admin:billing_postpaidterms_changelist")
        context = {
            **self.admin_site.each_context(request),
            "title": "Offer credit",
            "form": form,
            "opts": self.opts,
        }
        status = 422 if form.errors else 200
        return render(request, "admin/billing/postpaidterms/offer.html", context, status=status)

    def _decide(
        self,
        request: HttpRequest,
        rows: QuerySet[PostpaidTerms],
        *,
        action: str,
        title: str,
        warning: str,
        button: str,
        service: services.Decide,
    ) -> HttpResponse | None:
        chosen = list(rows[:2])
        shown = chosen[0] if len(chosen) == 1 else PostpaidTerms()
        limit_nanos = shown.credit_limit_nanos or shown.wanted_limit_nanos or 0
        initial = {"limit_dollars": limit_nanos // NANOS_PER_DOLLAR, "due_days": shown.due_days}
        return confirm_with_form(
            self,
            request,
            rows,
            action=action,
            title=title,
            warning=warning,
            button=button,
            make_form=lambda answers: TermsReasonForm(answers, initial=initial),
            decide=lambda terms, answers: service(
                actor_of(request),
                terms,
                limit_nanos=answers["limit_dollars"] * NANOS_PER_DOLLAR,
                due_days=answers["due_days"],
                reason=answers["reason"],
            ),
        )


@admin.register(TaxDetails)
class TaxDetailsAdmin(ReadOnlyAdmin):
    list_display = ["account", "name", "city", "country", "tax_id", "updated_at"]
    search_fields = ["account__slug", "name"]
    list_select_related = ["account"]


@admin.register(MeterReport)
class MeterReportAdmin(ReadOnlyAdmin):
    list_display = ["hour", "account", "seq", "used", "back", "value", "state", "sent_at"]
    list_filter = ["state", "hour"]
    search_fields = ["account__slug", "identifier"]
    list_select_related = ["account"]
    ordering = ["-hour", "account__slug"]

    @admin.display(description="Used")
    def used(self, report: MeterReport) -> str:
        return format_nanos(report.usage_nanos)

    @admin.display(description="Given back")
    def back(self, report: MeterReport) -> str:
        return format_nanos(report.reversed_nanos)

    @admin.display(description="Reported")
    def value(self, report: MeterReport) -> str:
        return format_nanos(report.value_micro * NANOS_PER_MICRO)


@admin.register(MeterSeal)
class MeterSealAdmin(ReadOnlyAdmin):
    list_display = ["hour", "sealed_at"]
    ordering = ["-hour"]


class NoticeInline(ReadOnlyInline):
    model = InvoiceNotice


@admin.register(Invoice)
class InvoiceAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "account", "number", "state", "total", "check_state", "due_at"]
    list_filter = ["state", "check_state"]
    search_fields = ["account__slug", "number", "stripe_id"]
    list_select_related = ["account"]
    inlines = [NoticeInline]
    actions = ["accept", "write_off"]
    ordering = ["-created_at"]

    @admin.action(description="Accept the difference of the selected invoices …")
    def accept(self, request: HttpRequest, rows: QuerySet[Invoice]) -> HttpResponse | None:
        return confirm_with_reason(
            self,
            request,
            rows,
            action="accept",
            title="Accept differences",
            warning="Their payments are booked; what they differ by is booked as bad debt.",
            button="Accept",
            decide=lambda invoice, reason: accept_invoice(
                actor_of(request), invoice, reason=reason
            ),
        )

    @admin.action(description="Write off the selected invoices …")
    def write_off(self, request: HttpRequest, rows: QuerySet[Invoice]) -> HttpResponse | None:
        return confirm_with_reason(
            self,
            request,
            rows,
            action="write_off",
            title="Write off",
            warning="What is owed of them becomes the platform's loss, and Stripe asks for it no"
            " more. Above the limit of adjustments another admin has to approve first.",
            button="Write off",
            decide=lambda invoice, reason: propose_write_off(
                actor_of(request), invoice, reason=reason
            ),
        )

    @admin.display(description="Total")
    def total(self, invoice: Invoice) -> str:
        return format_nanos(invoice.total_cents * NANOS_PER_CENT)
