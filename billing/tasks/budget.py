from __future__ import annotations

from celery import shared_task


@shared_task(name="billing.alert_budgets")
def alert_budgets() -> None:
    from billing.services.budget import alert_budgets as service

    service()
