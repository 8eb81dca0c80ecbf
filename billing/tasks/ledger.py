from __future__ import annotations

import logging

from celery import shared_task

logger = logging.getLogger(__name__)


@shared_task(name="billing.expire_holds")
def expire_holds() -> None:
    from billing.services.ledger import expire_holds as service

    if count := service():
        logger.warning("%s holds expired: their gateway did not come back in time", count)


@shared_task(name="billing.check_ledger")
def check_ledger() -> None:
    from django.db import transaction

    from billing.selectors.ledger import check_invariants
    from marketplace.services.vital import note_vital

    with transaction.atomic(durable=True):
        findings = check_invariants()
    for finding in findings:
        if finding.count:
            logger.critical("ledger: %s broken by %s rows", finding.invariant.name, finding.count)
    broken = [f"{one.invariant.name} by {one.count} rows" for one in findings if one.count]
    note_vital("ledger", is_good=not broken, detail=", ".join(broken))
