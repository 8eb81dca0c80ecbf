from __future__ import annotations

from celery import shared_task


@shared_task(name="billing.start_payouts")
def start_payouts() -> None:
    from billing.services.payout import start_due_run as service

    service()


@shared_task(name="billing.advance_payouts")
def advance_payouts() -> None:
    from billing.services.payout import advance_payouts as service

    service()
