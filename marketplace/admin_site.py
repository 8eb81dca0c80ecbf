"""The admin console: Django's, under our name, behind our own sign-in."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from django.contrib import admin
from django.contrib.admin import apps
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, resolve_url

from marketplace.core.errors import NotFoundError


class StrongroomAdminSite(admin.AdminSite):
    site_title = "Strongroom admin"
    site_header = "Strongroom admin"
    index_title = "Platform"
    site_url = "/"

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """The list of tables, below what waits to be done."""
        # Models are not loaded yet where this module is imported.
        from marketplace.selectors.catalog import list_review_queue

        context = {"review_count": list_review_queue().count()}
        return super().index(request, context | (extra_context or {}))

    def login(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Send people to the site's own page: it counts the tries."""
        if request.user.is_authenticated and not self.has_permission(request):
            # For those who are not staff there is no console.
            raise NotFoundError
        target = request.GET.get("next") or resolve_url("admin:index")
        return redirect(f"{resolve_url('marketplace:login')}?next={quote(target)}")

    def password_change(self, request: HttpRequest, extra_context: Any = None) -> Any:
        """The site's own page changes it, with a line in the audit log."""
        return redirect("marketplace:profile")


class AdminConfig(apps.AdminConfig):
    default_site = "marketplace.admin_site.StrongroomAdminSite"
