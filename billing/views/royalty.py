"""Royalties: what a version shares with the owners of what it was made from."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from billing.forms.royalty import RoyaltyForm
from billing.selectors.royalty import access_royalty, list_royalties
from billing.services.royalty import BPS_MAX, ROYALTIES_MAX, can_end, end_royalty, promise_royalty
from marketplace.context import actor_of
from marketplace.core.errors import ConflictError, InvalidInputError
from marketplace.forms.problem import add_problem
from marketplace.selectors.access import access_model, has_right
from marketplace.selectors.catalog import get_version


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def royalties(request: HttpRequest, owner: str, name: str, number: int) -> HttpResponse:
    """What a version shares, and the form to share more of it."""
    actor = actor_of(request)
    right = "push" if request.method == "POST" else "read"
    version = get_version(access_model(actor, owner, name, right), number)
    form = RoyaltyForm(request.POST or None, actor=actor)
    if request.method == "POST" and form.is_valid():
        try:
            royalty = promise_royalty(
                actor, version, parent=form.cleaned_data["parent"], bps=form.bps
            )
        except (InvalidInputError, ConflictError) as error:
            add_problem(form, error)
        else:
            messages.success(
                request, f"{royalty.beneficiary.slug} gets a share from the next prediction on."
            )
            return redirect("billing:royalties", owner, name, number)
    rows = list(list_royalties(version))
    left_bps = BPS_MAX - sum(one.bps for one in rows if one.ended_at is None)
    context = {
        "model": version.model,
        "version": version,
        "rows": [{"royalty": one, "can_end": can_end(actor, one)} for one in rows],
        "left_bps": left_bps,
        "most": ROYALTIES_MAX,
        "can_edit": has_right(actor, version.model.account, "push"),
        "form": form,
    }
    return render(request, "billing/royalties.html", context, status=422 if form.errors else 200)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def royalty_end(request: HttpRequest, royalty_id: UUID) -> HttpResponse:
    """Ask, then end a royalty; what was booked until then stays shared."""
    actor = actor_of(request)
    royalty = access_royalty(actor, royalty_id)
    if request.method == "POST":
        end_royalty(actor, royalty)
        messages.success(request, "The royalty is ended. What was booked until now stays shared.")
        return redirect("billing:earnings")
    context = {"royalty": royalty, "can_end": can_end(actor, royalty)}
    return render(request, "billing/royalty_end.html", context)
