"""The switches of the product, for platform admins."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from marketplace.context import actor_of
from marketplace.core.errors import MarketplaceError
from marketplace.forms.platform import FlagForm
from marketplace.forms.problem import add_problem
from marketplace.models import FlagSetting
from marketplace.selectors.flag import get_flag, list_flags
from marketplace.services.flag import set_flag
from marketplace.views.platform import platform_admin_required


@platform_admin_required
@require_safe
def flags(request: HttpRequest) -> HttpResponse:
    """All switches and how they are set."""
    return render(request, "marketplace/platform/flags.html", {"flags": list_flags()})


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
def flag(request: HttpRequest, name: str) -> HttpResponse:
    """One switch; POST sets it, with a reason."""
    found = get_flag(name)
    row = FlagSetting.objects.select_related("changed_by").filter(pk=name).first()
    form = FlagForm(
        request.POST if request.method == "POST" else None,
        initial={
            "mode": row.mode if row else ("on" if found.default else "off"),
            "percentage": row.percentage if row else 0,
            "accounts": "\n".join(row.accounts) if row else "",
        },
        is_per_account=found.is_per_account,
    )
    status = 422 if form.is_bound else 200
    if form.is_valid():
        answers = form.cleaned_data
        try:
            set_flag(
                actor=actor_of(request),
                flag=found,
                mode=answers["mode"],
                percentage=answers.get("percentage") or 0,
                accounts=answers.get("accounts") or [],
                reason=answers["reason"],
            )
        except MarketplaceError as error:
            add_problem(form, error)
        else:
            messages.success(request, f"{name} is set. It counts everywhere within seconds.")
            return redirect("marketplace:flags")
    context = {"flag": found, "row": row, "form": form}
    return render(request, "marketplace/platform/flag.html", context, status=status)
