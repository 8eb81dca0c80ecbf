"""The platform's page for accounts that are stopped."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from billing.forms.frozen import StopForm
from billing.selectors.frozen import list_frozen, list_stopped
from billing.views.platform import platform_admin_required
from marketplace.context import actor_of
from marketplace.core.errors import MarketplaceError
from marketplace.forms.problem import add_problem
from marketplace.services.account import suspend_account, unsuspend_account


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
def frozen(request: HttpRequest) -> HttpResponse:
    """Who is stopped and why; POST stops an account or lets it go on, with a reason."""
    is_release = request.POST.get("decision") == "release"
    form = StopForm(request.POST or None, initial={"account": request.GET.get("account", "")})
    if form.is_valid():
        account, reason = form.cleaned_data["account"], form.cleaned_data["reason"]
        decide = unsuspend_account if is_release else suspend_account
        try:
            decide(actor=actor_of(request), account=account, reason=reason)
        except MarketplaceError as error:
            add_problem(form, error)
        else:
            done = "goes on" if is_release else "is stopped"
            messages.success(request, f"{account.slug} {done}.")
            return redirect("billing:frozen")
    context = {"form": form, "stopped": list_stopped(), "frozen": list_frozen()}
    status = 422 if form.is_bound else 200
    return render(request, "billing/platform/frozen.html", context, status=status)
