"""The same queue as Celery on Redis has it: told late, one at a time; for `bench.broker`."""

from __future__ import annotations

import os
import time

import redis
from celery import Celery

URL = os.environ.get("BENCH_CELERY_URL", "redis://127.0.0.1/1")
STARTED = "bench:started"

app = Celery("bench", broker=URL)
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    task_ignore_result=True,
    task_default_queue="bench",
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    # What a job that runs for half an hour needs: Redis gives out again what takes longer.
    broker_transport_options={"visibility_timeout": 3_600},
)


_notes = redis.Redis.from_url(URL)


@app.task
def run(tenant: str, sent_at: float) -> None:
    """Note whose it was, how long it had waited and when it began, in seconds."""
    now = time.time()
    _notes.rpush(STARTED, f"{tenant} {now - sent_at:.6f} {now:.6f}")
