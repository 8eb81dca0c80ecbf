from __future__ import annotations

from django.contrib import admin

from marketplace.admin.readonly import ReadOnlyAdmin
from marketplace.models import APIKey


@admin.register(APIKey)
class APIKeyAdmin(ReadOnlyAdmin):
    list_display = ["hint", "name", "account", "mode", "last_used_at", "expires_at", "revoked_at"]
    list_filter = ["mode"]
    search_fields = ["name", "hint", "account__slug"]
    list_select_related = ["account"]
    exclude = ["digest"]
    ordering = ["-created_at"]
