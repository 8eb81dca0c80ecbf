from __future__ import annotations

from django.contrib import admin

from marketplace.admin.readonly import ReadOnlyAdmin
from marketplace.models import AuditEvent


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    list_display = ["seq", "at", "actor", "action", "object_type", "object_id"]
    list_filter = ["action", "at"]
    search_fields = ["actor", "object_id"]
    exclude = ["prev_hash", "hash"]
    ordering = ["-seq"]
