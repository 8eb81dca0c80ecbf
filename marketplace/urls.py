"""Addresses of the site and of the management API; other packages are named as strings."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/", include("marketplace.api.urls")),
    path("api/", include("inference.api.urls")),
    path("api/", include("billing.api.urls")),
    path("", include("billing.urls")),
    path("", include("inference.urls")),
    path("", include("marketplace.site_urls")),
]

handler400 = "marketplace.views.errors.bad_request"
handler403 = "marketplace.views.errors.forbidden"
handler404 = "marketplace.views.errors.not_found"
handler500 = "marketplace.views.errors.server_error"
