from __future__ import annotations

from django.contrib import admin

from inference.models import WakeWish
from marketplace.admin.readonly import ReadOnlyAdmin


@admin.register(WakeWish)
class WakeWishAdmin(ReadOnlyAdmin):
    """Versions that somebody wants; one that stays here is heard by no worker."""

    list_display = ["version_id", "asked_at"]
    search_fields = ["version_id"]
    ordering = ["pk"]
