from __future__ import annotations

from django.contrib import admin

from inference.models import Batch
from marketplace.admin.readonly import ReadOnlyAdmin


@admin.register(Batch)
class BatchAdmin(ReadOnlyAdmin):
    """How far batches are; what their lines say is the account's business."""

    list_display = ["__str__", "account", "version", "state", "reason", "created_at"]
    list_filter = ["state"]
    search_fields = ["account__slug", "=id"]
    list_select_related = ["account", "version__model__account"]
    # The path of an address may be a secret.
    exclude = ["webhook_url"]
    ordering = ["-id"]
