"""Pages of the admin console on which something is made: a form, then a row nobody edits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import URLPattern, path, reverse

from marketplace.admin.readonly import ReadOnlyAdmin
from marketplace.core.errors import ForbiddenError, MarketplaceError
from marketplace.forms.problem import add_problem


class MakingAdmin(ReadOnlyAdmin):
    """A table to look at, with a page where a row is made by a service."""

    change_list_template = "admin/billing/making_list.html"
    # By the name of a method, which gets the request and the answers: label and form.
    pages: Mapping[str, tuple[str, type[forms.Form]]] = {}

    def get_urls(self) -> list[URLPattern]:
        """The pages stand before the rows."""
        urls = [
            path(
                f"{name}/",
                self.admin_site.admin_view(partial(self._page_view, name=name)),
                name=f"{self._url_name}_{name}",
            )
            for name in self.pages
        ]
        return [*urls, *super().get_urls()]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> Any:
        """The list, with links to the pages."""
        links = [
            (label, reverse(f"admin:{self._url_name}_{name}"))
            for name, (label, _) in self.pages.items()
        ]
        return super().changelist_view(request, {"links": links} | (extra_context or {}))

    @property
    def _url_name(self) -> str:
        return f"{self.model._meta.app_label}_{self.model._meta.model_name}"

    def _page_view(self, request: HttpRequest, *, name: str) -> HttpResponse:
        label, make_form = self.pages[name]
        if not request.user.is_superuser:
            raise ForbiddenError("Only a superuser of the platform makes this.")
        form = make_form(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                made = getattr(self, name)(request, form.cleaned_data)
            except MarketplaceError as error:
                add_problem(form, error)
            else:
                messages.success(request, f"{made}: done.")
                return redirect(f"admin:{self._url_name}_changelist")
        context = {
            **self.admin_site.each_context(request),
            "title": label,
            "form": form,
            "opts": self.model._meta,
        }
        status = 422 if form.errors else 200
        return render(request, "admin/billing/make.html", context, status=status)
