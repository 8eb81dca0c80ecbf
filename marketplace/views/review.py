"""The review queue, and a version beside the one before it."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from marketplace.context import actor_of
from marketplace.core.card import render_card
from marketplace.core.errors import MarketplaceError
from marketplace.forms.platform import APPROVALS, REFUSALS, DeedForm, ReviewForm
from marketplace.forms.problem import add_problem
from marketplace.models import Channel, ModelVersion, User
from marketplace.selectors import review as selectors
from marketplace.selectors.access import access_version
from marketplace.selectors.catalog import find_channel_version, list_review_queue
from marketplace.services import doubt, review
from marketplace.views.paging import page_of
from marketplace.views.platform import PAGE_SIZE, platform_admin_required


@platform_admin_required
@require_safe
def reviews(request: HttpRequest) -> HttpResponse:
    """Versions that wait, the longest waiting first."""
    context = {"page": page_of(request, list_review_queue(), PAGE_SIZE)}
    return render(request, "marketplace/platform/reviews.html", context)


@platform_admin_required
@require_http_methods(["GET", "HEAD", "POST"])
def review_version(request: HttpRequest, version_id: UUID) -> HttpResponse:
    """One version with all that is known of it; POST approves or refuses it, with a reason."""
    version = access_version(actor_of(request), version_id)
    decision = request.POST.get("decision", "")
    doubts = doubt.find_doubts(version)
    approval = ReviewForm(
        request.POST if decision == "approve" else None, templates=APPROVALS, doubts=doubts
    )
    refusal = DeedForm(request.POST if decision == "refuse" else None, templates=REFUSALS)
    approval.auto_id, refusal.auto_id = "id_approve_%s", "id_refuse_%s"
    for form, name in ((approval, "approve"), (refusal, "refuse")):
        form.fields["template"].widget.attrs["data-fill"] = f"id_{name}_reason"
    status, late = 200, ""
    if request.method == "POST":
        form = approval if decision == "approve" else refusal
        status = 422
        if form.is_bound and form.is_valid():
            try:
                _decide(request, version, decision, form)
            except MarketplaceError as error:
                add_problem(form, error)
                status = error.http_status
                version.refresh_from_db()
                # Without the forms, if somebody else was quicker.
                late = error.detail
            else:
                return redirect("marketplace:reviews")
    context = _context(version) | {"approval": approval, "refusal": refusal, "doubts": doubts}
    context["late"] = late
    return render(request, "marketplace/platform/review.html", context, status=status)


def _decide(request: HttpRequest, version: ModelVersion, decision: str, form: DeedForm) -> None:
    reviewer = request.user
    assert isinstance(reviewer, User)
    reason = form.cleaned_data["reason"]
    if decision == "approve":
        is_confirmed = bool(form.cleaned_data.get("confirmed"))
        review.approve_version(
            version=version, reviewer=reviewer, reason=reason, is_confirmed=is_confirmed
        )
        messages.success(request, f"{version} is approved.")
    else:
        review.refuse_version(version=version, reviewer=reviewer, reason=reason)
        messages.success(request, f"{version} is refused.")


def _context(version: ModelVersion) -> dict[str, object]:
    previous = selectors.find_previous(version)
    return {
        "version": version,
        "model": version.model,
        "previous": previous,
        "sections": selectors.compare(version, previous),
        "card_rows": selectors.compare_cards(version, previous),
        "card": render_card(version.model.card),
        "history": selectors.describe_owner(version.model.account, version),
        "decided": list(version.reviews.select_related("reviewer").order_by("-created_at")),
        "is_waiting": version.state == ModelVersion.State.IN_REVIEW,
        "will": _foretell(version),
    }


def _foretell(version: ModelVersion) -> list[str]:
    """What an approval leads to."""
    channel = version.publish_channel
    if not channel:
        return ["Nothing is published: its creator moves a channel to it."]
    now = find_channel_version(version.model, channel)
    told = [f"The channel {channel} moves to version {version.number}."]
    if now is not None:
        told = [f"The channel {channel} moves from version {now.number} to {version.number}."]
        if channel == Channel.Name.PROD:
            told.append("Consumers who name no version get this one at once.")
    elif channel == Channel.Name.PROD:
        told.append("The model is in the catalogue as soon as a replica is ready.")
    return told
