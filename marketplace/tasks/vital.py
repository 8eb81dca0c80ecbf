from __future__ import annotations

from celery import shared_task


@shared_task(name="marketplace.note_worker")
def note_worker() -> None:
    """Say that schedule and worker are alive."""
    from marketplace.services.vital import note_worker as service

    service()


@shared_task(name="marketplace.check_audit_log")
def check_audit_log() -> None:
    """Check the chain of the audit log, and note the result."""
    from marketplace.services.vital import check_audit_log as service

    service()
