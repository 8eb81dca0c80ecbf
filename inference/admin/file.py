from __future__ import annotations

from django.contrib import admin

from inference.models import File
from marketplace.admin.readonly import ReadOnlyAdmin


@admin.register(File)
class FileAdmin(ReadOnlyAdmin):
    """Which files there are and until when; nobody opens them from here."""

    list_display = ["__str__", "account", "purpose", "size_bytes", "state", "expires_at"]
    list_filter = ["state", "purpose"]
    search_fields = ["account__slug"]
    list_select_related = ["account"]
    # What people call their files is theirs.
    exclude = ["name", "sealed_key", "store_key"]
    ordering = ["-id"]
