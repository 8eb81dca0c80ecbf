from __future__ import annotations

from django.contrib import admin

from marketplace.admin.readonly import ReadOnlyAdmin, ReadOnlyInline
from marketplace.models import Incident, IncidentUpdate


class IncidentUpdateInline(ReadOnlyInline):
    """What was said of it, and by whom."""

    model = IncidentUpdate
    fields = ["number", "created_at", "state", "text", "author"]
    ordering = ["number"]


@admin.register(Incident)
class IncidentAdmin(ReadOnlyAdmin):
    """Trouble and planned work as they were published; they are written under /platform."""

    list_display = ["title", "impact", "state", "created_at", "updated_at", "resolved_at"]
    list_filter = ["impact", "state"]
    search_fields = ["title"]
    # A list of all models would be a page of its own.
    raw_id_fields = ["named_models"]
    inlines = [IncidentUpdateInline]
    ordering = ["-created_at", "-pk"]


@admin.register(IncidentUpdate)
class IncidentUpdateAdmin(ReadOnlyAdmin):
    """Each word that was said, the latest first."""

    list_display = ["incident", "number", "state", "created_at", "author"]
    list_filter = ["state", "created_at"]
    search_fields = ["incident__title", "text"]
    list_select_related = ["incident", "author"]
    ordering = ["-created_at", "-pk"]
