"""Actions that need a reason and a second look: a page between the click and the deed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render

from marketplace.core import limits
from marketplace.core.errors import MarketplaceError


class ReasonForm(forms.Form):
    """A reason; what else is asked for stands above it, in a form of its own."""

    reason = forms.CharField(
        max_length=limits.REASON_LENGTH_MAX,
        widget=forms.Textarea(attrs={"rows": 4, "autofocus": True}),
        help_text="Kept for good. The people concerned can read it.",
    )


def confirm_with_reason(
    model_admin: admin.ModelAdmin,
    request: HttpRequest,
    rows: QuerySet[Any],
    *,
    action: str,
    title: str,
    warning: str,
    button: str,
    decide: Callable[[Any, str], object],
) -> HttpResponse | None:
    """Ask for a reason alone; see `confirm_with_form`."""
    return confirm_with_form(
        model_admin,
        request,
        rows,
        action=action,
        title=title,
        warning=warning,
        button=button,
        make_form=ReasonForm,
        decide=lambda row, answers: decide(row, answers["reason"]),
    )


def confirm_with_form(
    model_admin: admin.ModelAdmin,
    request: HttpRequest,
    rows: QuerySet[Any],
    *,
    action: str,
    title: str,
    warning: str,
    button: str,
    make_form: Callable[[QueryDict | None], ReasonForm],
    decide: Callable[[Any, dict[str, Any]], object],
) -> HttpResponse | None:
    """Ask for what a form asks, then do it to each row; what cannot be done is told, row by row.

    Args:
        model_admin: Whose list the action stands in.
        request: The first POST has no `confirmed`, the second does.
        rows: What was ticked.
        action: The name of the admin action, for the second POST.
        title: The page's heading.
        warning: What will happen, in a sentence.
        button: The words on the button that does it.
        make_form: What is asked for, from the answers that are there.
        decide: Does it to one row, with the answers; raises a MarketplaceError if it may not.
    """
    confirmed = "confirmed" in request.POST
    form = make_form(request.POST if confirmed else None)
    if not (confirmed and form.is_valid()):
        context = {
            **model_admin.admin_site.each_context(request),
            "title": title,
            "warning": warning,
            "button": button,
            "action": action,
            "rows": rows,
            "form": form,
            "opts": model_admin.model._meta,
        }
        status = 422 if confirmed else 200
        return render(request, "admin/confirm_with_reason.html", context, status=status)
    for row in rows:
        try:
            decide(row, form.cleaned_data)
        except MarketplaceError as error:
            told = error.detail if str(row) in error.detail else f"{row}: {error.detail}"
            messages.error(request, told)
        else:
            messages.success(request, f"{row}: done.")
    return None
