"""Forget what predictions carried, once no retry can ask for it.

What was booked stays for good; what went in and came out is kept only for requests with an
`Idempotency-Key`, for as long as a retry gets the same answer.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from django.db.models import Q
from django.utils import timezone

from inference.models import APIRequest, Prediction

# The gateway answers a repeated key for this long; then the key is free again.
RETENTION = timedelta(hours=24)
# One sweep's share, so that no statement holds many rows for long.
BATCH_SIZE = 5_000
# A sweep that finds more leaves it to the next one.
SWEEP_LIMIT_S = 60.0


def forget_predictions() -> int:
    """Drop keys and contents older than `RETENTION`; returns how many rows were touched."""
    before = timezone.now() - RETENTION
    end_s = time.monotonic() + SWEEP_LIMIT_S
    count = 0
    while (touched := _forget_batch(before)) and time.monotonic() < end_s:
        count += touched
    return count + touched


def _forget_batch(before: datetime) -> int:
    requests = APIRequest.objects.filter(created_at__lt=before).order_by("created_at")
    deleted, _ = APIRequest.objects.filter(
        pk__in=list(requests.values_list("pk", flat=True)[:BATCH_SIZE])
    ).delete()
    kept = Prediction.objects.filter(
        Q(output__isnull=False) | Q(input__isnull=False), created_at__lt=before
    ).order_by("created_at")
    emptied = Prediction.objects.filter(
        pk__in=list(kept.values_list("pk", flat=True)[:BATCH_SIZE])
    ).update(input=None, output=None)
    return deleted + emptied
