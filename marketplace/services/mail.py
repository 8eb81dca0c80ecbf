"""Mail about a row, once: that it was sent is written in the transaction that holds the row."""

from __future__ import annotations

import logging
from collections.abc import Callable
from smtplib import SMTPException
from typing import Any, TypeVar

from django.db import models, transaction

from marketplace.core.clock import utc_now

logger = logging.getLogger(__name__)

Row = TypeVar("Row", bound=models.Model)


def mail_once(
    rows: models.QuerySet[Row],
    row_id: Any,
    *,
    what: str,
    list_addresses: Callable[[Row], list[str]],
    send: Callable[[Row, list[str]], None],
) -> bool:
    """Mail about one row unless that was done; returns whether somebody got it.

    Args:
        rows: Locks what it finds, and passes over what others have locked.
        row_id: Which; it has `mailed_at`.
        what: How the log calls such a row.
        list_addresses: Who is to know; with nobody there, the row counts as mailed.
        send: Raises OSError or SMTPException where the next run is to try again.
    """
    with transaction.atomic():
        row = rows.filter(pk=row_id, mailed_at=None).first()
        if row is None:
            return False
        addresses = list_addresses(row)
        try:
            if addresses:
                send(row, addresses)
        except (OSError, SMTPException) as error:
            logger.warning("the %s %s could not be mailed: %s", what, row, type(error).__name__)
            return False
        setattr(row, "mailed_at", utc_now())  # noqa: B010 - not every model has it
        row.save(update_fields=["mailed_at"])
    return bool(addresses)
