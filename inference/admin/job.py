from __future__ import annotations

from django.contrib import admin

from inference.models import FinishedJob, Job, JobAttempt, JobFlow
from marketplace.admin.readonly import ReadOnlyAdmin


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    """The queue as it is now; what went in is the account's business."""

    list_display = ["id", "version", "priority", "state", "attempt", "error", "created_at"]
    list_filter = ["state", "priority"]
    search_fields = ["=id", "=account_id", "=lease_node_id"]
    list_select_related = ["version__model__account"]
    exclude = ["webhook_url"]
    ordering = ["-id"]


@admin.register(JobAttempt)
class JobAttemptAdmin(ReadOnlyAdmin):
    """Every lease that is over, and how it ended."""

    list_display = ["job_id", "epoch", "node_id", "outcome", "code", "ended_at"]
    list_filter = ["outcome", "code"]
    search_fields = ["=job_id", "=node_id"]
    ordering = ["-id"]


@admin.register(FinishedJob)
class FinishedJobAdmin(ReadOnlyAdmin):
    """What has left the queue."""

    list_display = ["id", "account_id", "state", "priority", "attempt", "error", "finished_at"]
    list_filter = ["state", "priority", "discarded_at"]
    search_fields = ["=id", "=account_id", "=node_id"]
    ordering = ["-finished_at"]


@admin.register(JobFlow)
class JobFlowAdmin(ReadOnlyAdmin):
    """Whose jobs wait for what."""

    list_display = ["account_id", "version", "offered_count", "parked_count", "offered_max"]
    search_fields = ["=account_id"]
    list_select_related = ["version__model__account"]
    ordering = ["-parked_count", "-offered_count"]
