"""Pages of the admin console on which something is made: a form, then a row nobody edits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import URLPattern, path

from marketplace.admin.readonly import ReadOnlyAdmin
from marketplace.core.errors import ForbiddenError, MarketplaceError
from marketplace.forms.problem import add_problem


class MakingAdmin(ReadOnlyAdmin):
    """A table to look at, with a page where a row is made by a service."""

    change_list_template = "admin/billing/making_list.html"
    make_label = ""
    make_form: type[forms.Form] = forms.Form

    def make(self, request: HttpRequest, answers: dict[str, Any]) -> object:
        """Make the row; raises a `MarketplaceError` where it may not be made."""
        raise NotImplementedError

    def get_urls(self) -> list[URLPattern]:
        """The page stands before the rows."""
        view: Callable[..., HttpResponse] = self.admin_site.admin_view(self._make_view)
        return [path("make/", view, name=f"{self._url_name}_make"), *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> Any:
        """The list, with a link to the page."""
        context = {"make_label": self.make_label, "make_url": f"admin:{self._url_name}_make"}
        return super().changelist_view(request, context | (extra_context or {}))

    @property
    def _url_name(self) -> str:
        return f"{self.model._meta.app_label}_{self.model._meta.model_name}"

    def _make_view(self, request: HttpRequest) -> HttpResponse:
        if not request.user.is_superuser:
            raise ForbiddenError("Only a superuser of the platform makes this.")
        form = self.make_form(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                made = self.make(request, form.cleaned_data)
            except MarketplaceError as error:
                add_problem(form, error)
            else:
                messages.success(request, f"{made}: done.")
                return redirect(f"admin:{self._url_name}_changelist")
        context = {
            **self.admin_site.each_context(request),
            "title": self.make_label,
            "form": form,
            "opts": self.model._meta,
        }
        status = 422 if form.errors else 200
        return render(request, "admin/billing/make.html", context, status=status)
