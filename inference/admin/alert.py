from __future__ import annotations

from django.contrib import admin

from inference.models import AlertDelivery, AlertEvent, AlertRule
from marketplace.admin.readonly import ReadOnlyAdmin, ReadOnlyInline


class AlertDeliveryInline(ReadOnlyInline):
    """What was told of it; where is the creator's business."""

    model = AlertDelivery
    fields = ["what", "state", "attempts", "created_at", "sent_at"]


@admin.register(AlertRule)
class AlertRuleAdmin(ReadOnlyAdmin):
    """What creators watch, and what was measured last."""

    list_display = ["model", "kind", "threshold", "window_s", "measured", "evaluated_at"]
    list_filter = ["kind"]
    search_fields = ["model__name", "model__account__slug"]
    list_select_related = ["model__account"]
    ordering = ["-created_at"]


@admin.register(AlertEvent)
class AlertEventAdmin(ReadOnlyAdmin):
    """Which models are broken in the eyes of their creators."""

    list_display = ["__str__", "fired_at", "resolved_at", "measured", "acknowledged_at"]
    list_filter = ["rule__kind", ("resolved_at", admin.EmptyFieldListFilter)]
    search_fields = ["rule__model__name", "rule__model__account__slug"]
    list_select_related = ["rule"]
    inlines = [AlertDeliveryInline]
    ordering = ["-fired_at"]
