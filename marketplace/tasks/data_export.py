from __future__ import annotations

from uuid import UUID

from celery import shared_task

# A file of a large account takes longer than other tasks may; still below the time after which
# the broker hands a task out again.
TIME_LIMIT_S = 3_000


@shared_task(name="marketplace.advance_data_export", time_limit=TIME_LIMIT_S)
def advance_data_export(export_id: str) -> None:
    """Go on with an archive of an account's data."""
    from marketplace.services import data_export

    data_export.advance(export_id=UUID(export_id))


@shared_task(name="marketplace.sweep_data_exports")
def sweep_data_exports() -> None:
    """Go on with archives whose worker died, and delete those that are too old."""
    from marketplace.services import data_export

    data_export.sweep()
