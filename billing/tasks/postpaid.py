from __future__ import annotations

from contextlib import suppress

from celery import shared_task


@shared_task(name="billing.advance_postpaid")
def advance_postpaid() -> None:
    from billing.services.postpaid import advance_postpaid as service
    from billing.services.tax_details import send_all_tax_details
    from billing.services.write_off import send_write_offs

    service()
    send_write_offs()
    send_all_tax_details()


@shared_task(name="billing.report_usage")
def report_usage() -> None:
    from billing.services.meter import seal_hours, send_reports

    seal_hours()
    send_reports()


@shared_task(name="billing.compare_usage")
def compare_usage() -> None:
    from billing.errors import StripeUnavailableError
    from billing.services.meter import find_miscounted

    # What is wrong is logged as critical; the next run asks again.
    with suppress(StripeUnavailableError):
        find_miscounted()


@shared_task(name="billing.poll_invoices")
def poll_invoices() -> None:
    from billing.services.invoice import poll_invoices as service

    service()


@shared_task(name="billing.remind_of_invoices")
def remind_of_invoices() -> None:
    from billing.services.dunning import remind_of_invoices as service

    service()
