from __future__ import annotations

from uuid import UUID

from celery import shared_task


@shared_task(name="marketplace.advance_account_deletion")
def advance_account_deletion(deletion_id: str) -> None:
    """Go on with the deletion of an account."""
    from marketplace.services import account_deletion

    account_deletion.advance(deletion_id=UUID(deletion_id))


@shared_task(name="marketplace.sweep_account_deletions")
def sweep_account_deletions() -> None:
    """Begin the deletions whose time has come, and go on with those that wait or were cut off."""
    from marketplace.services import account_deletion

    account_deletion.sweep()
