from __future__ import annotations

from django.contrib import admin

from billing.models import ReceiptBatch, ReceiptKey
from marketplace.admin.readonly import ReadOnlyAdmin


@admin.register(ReceiptBatch)
class ReceiptBatchAdmin(ReadOnlyAdmin):
    list_display = ["seq", "size", "sealed_at", "root", "key"]
    list_filter = ["sealed_at"]
    ordering = ["-seq"]


@admin.register(ReceiptKey)
class ReceiptKeyAdmin(ReadOnlyAdmin):
    list_display = ["kid", "public_key", "created_at"]
    ordering = ["-created_at"]
