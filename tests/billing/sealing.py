"""Receipts of everything that was booked."""

from __future__ import annotations

import time

from billing.models import ReceiptLeaf, UsageEvent
from billing.services.receipt import seal_receipts

PATIENCE_S = 60.0


def seal_all() -> None:
    """Seal every charge.

    What is younger than the oldest open transaction waits, and Postgres has some of its own:
    autovacuum writes statistics whenever it likes.
    """
    deadline = time.monotonic() + PATIENCE_S
    leaves = ReceiptLeaf.objects.values("prediction_id")
    while seal_receipts() or UsageEvent.objects.exclude(prediction_id__in=leaves).exists():
        assert time.monotonic() < deadline, "charges without receipts"
        time.sleep(0.02)
