from __future__ import annotations

from celery import shared_task


@shared_task(name="inference.seal_drift")
def seal_drift() -> None:
    """Join what the gateways counted of watched models until it may be shown."""
    from inference.services import drift

    drift.seal_blocks()
