from __future__ import annotations

from celery import shared_task


@shared_task(name="billing.reconcile_nightly")
def reconcile_nightly() -> None:
    from billing.services.reconcile import reconcile_nightly as service

    service()


@shared_task(name="billing.carry_out_reconciliation")
def carry_out_reconciliation(run_id: str) -> None:
    from uuid import UUID

    from billing.services.reconcile import carry_out

    carry_out(UUID(run_id))
