from __future__ import annotations

from django.urls import URLPattern, URLResolver

app_name = "marketplace-api"
urlpatterns: list[URLPattern | URLResolver] = []
