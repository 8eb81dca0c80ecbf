from __future__ import annotations

from celery import shared_task


@shared_task(name="billing.run_auto_topups")
def run_auto_topups() -> None:
    from billing.services.auto_topup import mail_payments
    from billing.services.auto_topup import run_auto_topups as service

    service()
    mail_payments()


@shared_task(name="billing.poll_refunds")
def poll_refunds() -> None:
    from billing.services.refund import poll_refunds as service

    service()


@shared_task(name="billing.poll_disputes")
def poll_disputes() -> None:
    from billing.services.dispute import poll_disputes as service
    from billing.services.fraud_warning import poll_fraud_warnings

    service()
    poll_fraud_warnings()


@shared_task(name="billing.scan_for_fraud")
def scan_for_fraud() -> None:
    from billing.services.fraud import scan_for_fraud as service

    service()


@shared_task(name="billing.poll_stripe_events")
def poll_stripe_events() -> None:
    from billing.services.stripe_event import poll_undelivered

    poll_undelivered()
