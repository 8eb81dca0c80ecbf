from __future__ import annotations

import logging

from celery import shared_task

logger = logging.getLogger(__name__)


@shared_task(name="billing.seal_receipts")
def seal_receipts() -> None:
    from billing.errors import ReceiptKeyError
    from billing.services.receipt import seal_receipts as service

    try:
        service()
    except ReceiptKeyError as error:
        # Nothing is lost: all is sealed once the key is right.
        logger.critical("receipts are not sealed: %s", error.detail)
