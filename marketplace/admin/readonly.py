"""Admin pages for rows that people read and never edit."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest


class ReadOnlyMixin:
    """No adding, changing or deleting, not even for superusers."""

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ReadOnlyAdmin(ReadOnlyMixin, admin.ModelAdmin):
    """A table to look at."""

    show_full_result_count = False
    list_per_page = 50


class ReadOnlyInline(ReadOnlyMixin, admin.TabularInline):
    """Rows that belong to another, to look at."""

    extra = 0
    can_delete = False
