"""Invoices and credit, for those who pay later and those who want to."""

from __future__ import annotations

from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from billing.forms.postpaid import ApplyForm, TaxDetailsForm
from billing.models import PostpaidTerms
from billing.selectors.invoice import (
    access_invoice,
    find_write_off,
    list_invoice_lines,
    list_invoice_reports,
    list_invoice_usage,
    list_invoices,
)
from billing.selectors.postpaid import find_credit, find_tax_details
from billing.selectors.usage_export import CSV_TYPE, write_csv
from billing.services import postpaid as services
from billing.services.tax_details import save_tax_details
from marketplace.context import actor_of, requested_account
from marketplace.core.errors import NotFoundError
from marketplace.models import Account
from marketplace.selectors.access import has_right

PAGE_SIZE = 50
_OPEN_TO_APPLY = (PostpaidTerms.State.REFUSED, PostpaidTerms.State.CLOSED)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def invoices(request: HttpRequest) -> HttpResponse:
    """An account's invoices and terms; POST asks to pay later."""
    account = requested_account(request)
    form = ApplyForm(request.POST or None)
    if request.method == "POST":
        account = requested_account(request, "billing")
        if form.is_valid():
            services.apply_for_terms(
                actor_of(request),
                account,
                wanted_limit_nanos=form.limit_nanos,
                note=form.cleaned_data["note"],
            )
            return _back(account)
    credit = find_credit(account)
    context = {
        "account": account,
        "credit": credit,
        "form": form,
        "details": find_tax_details(account),
        "can_bill": has_right(actor_of(request), account, "billing"),
        "may_apply": credit is None or credit.terms.state in _OPEN_TO_APPLY,
        "page": Paginator(list_invoices(account), PAGE_SIZE).get_page(request.GET.get("page")),
    }
    return render(request, "billing/invoices.html", context, status=422 if form.errors else 200)


@login_required
@require_POST
def postpaid(request: HttpRequest, verb: str) -> HttpResponse:
    """Accept or decline what was offered, take back what was asked for, or end credit."""
    account = requested_account(request, "billing")
    actor = actor_of(request)
    match verb:
        case "accept":
            services.accept_terms(actor, account)
        case "decline":
            services.decline_terms(actor, account)
        case _:
            credit = find_credit(account)
            if credit is None:
                raise NotFoundError("The account has no terms.")
            services.close_terms(actor, credit.terms)
    return _back(account)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def tax_details(request: HttpRequest) -> HttpResponse:
    """Whom the invoices of an account are addressed to."""
    account = requested_account(request)
    form = TaxDetailsForm(request.POST or None, instance=find_tax_details(account))
    if request.method == "POST":
        account = requested_account(request, "billing")
        if form.is_valid():
            save_tax_details(actor_of(request), account, form.details)
            return _back(account)
    context = {
        "account": account,
        "form": form,
        "can_bill": has_right(actor_of(request), account, "billing"),
    }
    return render(request, "billing/tax_details.html", context, status=422 if form.errors else 200)


@login_required
@require_safe
def invoice(request: HttpRequest, invoice_id: UUID) -> HttpResponse:
    """One invoice: what it is for, by day and model, and the hours that were reported."""
    found = access_invoice(actor_of(request), invoice_id)
    context = {
        "account": found.account,
        "invoice": found,
        "lines": list_invoice_lines(found),
        "reports": list_invoice_reports(found),
        "write_off": find_write_off(found),
    }
    return render(request, "billing/invoice.html", context)


@login_required
@require_safe
def invoice_usage(request: HttpRequest, invoice_id: UUID) -> StreamingHttpResponse:
    """The predictions behind an invoice, as CSV."""
    found = access_invoice(actor_of(request), invoice_id)
    events = list_invoice_usage(found).iterator(chunk_size=2_000)
    response = StreamingHttpResponse(write_csv(events), content_type=CSV_TYPE)
    response["Content-Disposition"] = f'attachment; filename="invoice-{found.pk}.csv"'
    return response


def _back(account: Account) -> HttpResponse:
    return redirect(f"{reverse('billing:invoices')}?account={account.slug}")
