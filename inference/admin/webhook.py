from __future__ import annotations

from django.contrib import admin

from inference.models import WebhookAttempt, WebhookDelivery, WebhookEndpoint, WebhookEvent
from marketplace.admin.readonly import ReadOnlyAdmin, ReadOnlyInline


class WebhookAttemptInline(ReadOnlyInline):
    """How it went; what was answered is the account's business."""

    model = WebhookAttempt
    fields = ["at", "duration_ms", "status", "error"]


@admin.register(WebhookEndpoint)
class WebhookEndpointAdmin(ReadOnlyAdmin):
    """Who is told, and whether it works; the path of an address may be a secret."""

    list_display = ["__str__", "account", "is_enabled", "disabled_reason", "failing_since"]
    list_filter = ["is_enabled", "disabled_reason"]
    search_fields = ["account__slug"]
    list_select_related = ["account"]
    exclude = ["url"]
    ordering = ["-created_at"]


@admin.register(WebhookDelivery)
class WebhookDeliveryAdmin(ReadOnlyAdmin):
    """What was to leave, and what became of it."""

    list_display = ["__str__", "account", "state", "attempts", "created_at", "ended_at"]
    list_filter = ["state", "type"]
    search_fields = ["account__slug", "=prediction_id"]
    list_select_related = ["account"]
    inlines = [WebhookAttemptInline]
    ordering = ["-id"]


@admin.register(WebhookEvent)
class WebhookEventAdmin(ReadOnlyAdmin):
    """What happened, and when its deliveries were made."""

    list_display = ["type", "account_id", "prediction_id", "created_at", "spread_at"]
    list_filter = ["type", ("spread_at", admin.EmptyFieldListFilter)]
    search_fields = ["=account_id", "=prediction_id"]
    exclude = ["url"]
    ordering = ["-id"]
