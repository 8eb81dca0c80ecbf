"""How long an account keeps what its predictions carry: a page among its settings."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from inference.errors import ConfirmationMissingError
from inference.forms.retention import RetentionForm
from inference.selectors.file import measure_files
from inference.services import retention as services
from inference.services.prediction import COLLECTED_WITHIN
from marketplace.context import actor_of
from marketplace.selectors.access import access_account, has_right
from marketplace.views.confirm import needs_confirmation
from marketplace.views.once import sent_once


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@needs_confirmation("POST")
@sent_once
def retention(request: HttpRequest, slug: str) -> HttpResponse:
    """Show for how long contents and files are kept, and change it."""
    actor = actor_of(request)
    account = access_account(actor, slug)
    form = RetentionForm(request.POST or None, initial={"days": account.retention_days})
    if request.method == "POST":
        access_account(actor, slug, services.RIGHT)
        if form.is_valid():
            try:
                services.change_retention(actor=actor, account=account, **form.cleaned_data)
            except ConfirmationMissingError as error:
                form.add_error("is_confirmed", error.detail)
            else:
                messages.success(request, "Saved. It counts from now on.")
                return redirect("inference:retention", account.slug)
    count, size_bytes = measure_files(account)
    context = {
        "account": account,
        "form": form,
        "can_edit": has_right(actor, account, services.RIGHT),
        "file_count": count,
        "files_bytes": size_bytes,
        "collected_minutes": int(COLLECTED_WITHIN.total_seconds() // 60),
    }
    status = 422 if form.is_bound else 200
    return render(request, "inference/retention.html", context, status=status)
