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
from inference.models.prediction import RETENTION

# What is kept for the retry of a client that sends no key, which comes within a minute.
RETRY_RETENTION = timedelta(minutes=2)
# Older ones go with all others; so no sweep has to look through a whole day of keys.
IMPLIED_LOOK_BACK = timedelta(hours=1)
# How the gateway's own keys for such clients begin.
IMPLIED_PREFIX = "\x1f"
# One sweep's share, so that no statement holds many rows for long.
BATCH_SIZE = 5_000
# A sweep that finds more leaves it to the next one.
SWEEP_LIMIT_S = 60.0


def forget_predictions() -> int:
    """Drop keys and contents older than `RETENTION`; returns how many rows were touched."""
    before = timezone.now() - RETENTION
    end_s = time.monotonic() + SWEEP_LIMIT_S
    count = _forget_implied(timezone.now() - RETRY_RETENTION, end_s)
    while (touched := _forget_batch(before)) and time.monotonic() < end_s:
        count += touched
    return count + touched


def _forget_implied(before: datetime, end_s: float) -> int:
    """The same for requests without a key, whose retries come at once or never."""
    old = APIRequest.objects.filter(
        created_at__range=(before - IMPLIED_LOOK_BACK, before),
        idempotency_key__startswith=IMPLIED_PREFIX,
    ).filter(Q(completed_at__lt=before) | Q(claimed_until__lt=before))
    count = 0
    while time.monotonic() < end_s:
        found = dict(old.order_by("created_at").values_list("pk", "prediction_id")[:BATCH_SIZE])
        if not found:
            break
        Prediction.objects.filter(pk__in=found.values()).update(input=None, output=None)
        APIRequest.objects.filter(pk__in=found).delete()
        count += len(found)
    return count


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
