"""Forget what predictions carried, once no retry can ask for it.

What was booked stays for good; what went in and came out is kept only of requests with an
`Idempotency-Key` and of predictions that ran later, for as long as their account keeps anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from django.db.models import Q, QuerySet
from django.utils import timezone

from inference.models import APIRequest, Prediction
from inference.models.prediction import RETENTION
from marketplace.core.limits import RETENTION_DAYS_DEFAULT
from marketplace.models import Account

# What is kept for the retry of a client that sends no key, which comes within a minute.
RETRY_RETENTION = timedelta(minutes=2)
# What a job of an account that keeps nothing gave waits for so long to be fetched.
COLLECTED_WITHIN = timedelta(minutes=10)
# Older ones go with all others; so no sweep has to look through a whole day of keys.
IMPLIED_LOOK_BACK = timedelta(hours=1)
# How the gateway's own keys for such clients begin.
IMPLIED_PREFIX = "\x1f"
# One sweep's share, so that no statement holds many rows for long.
BATCH_SIZE = 5_000
# A sweep that finds more leaves it to the next one.
SWEEP_LIMIT_S = 60.0


def forget_predictions() -> int:
    """Drop keys older than `RETENTION`, and contents older than their accounts keep them.

    Returns how many rows were touched.
    """
    now = timezone.now()
    end_s = time.monotonic() + SWEEP_LIMIT_S
    count = _forget_implied(now - RETRY_RETENTION, end_s)
    kept = [_list_old(days, now) for days in _list_retentions()]
    sweeps: list[Callable[[], int]] = [_forget_keys, *(partial(_empty, old) for old in kept)]
    for forget in sweeps:
        while time.monotonic() < end_s and (touched := forget()):
            count += touched
    return count


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


def _forget_keys() -> int:
    requests = APIRequest.objects.filter(created_at__lt=timezone.now() - RETENTION)
    found = list(requests.order_by("created_at").values_list("pk", flat=True)[:BATCH_SIZE])
    return APIRequest.objects.filter(pk__in=found).delete()[0]


def _list_retentions() -> list[int]:
    """What accounts have chosen; a few numbers."""
    chosen = Account.objects.order_by().values_list("retention_days", flat=True)
    return sorted({RETENTION_DAYS_DEFAULT, *chosen.distinct()})


def _list_old(days: int, now: datetime) -> QuerySet[Prediction]:
    """Predictions with contents that their accounts, which keep them for so long, keep no more."""
    usual = days == RETENTION_DAYS_DEFAULT
    # Most accounts have chosen nothing, and are not listed.
    others = Account.objects.filter(~Q(retention_days=days) if usual else Q(retention_days=days))
    own = Q(account_id__in=others.values("pk"))
    is_old = (
        Q(created_at__lt=now - timedelta(days=days))
        if days
        else Q(completed_at__lt=now - COLLECTED_WITHIN)
    )
    has_content = Q(output__isnull=False) | Q(input__isnull=False)
    return Prediction.objects.filter(has_content, is_old, ~own if usual else own)


def _empty(old: QuerySet[Prediction]) -> int:
    found = list(old.order_by("created_at").values_list("pk", flat=True)[:BATCH_SIZE])
    return Prediction.objects.filter(pk__in=found).update(input=None, output=None)
