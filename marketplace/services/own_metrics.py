"""The marketplace's own numbers of the platform: workers, checks, database, Redis."""

from __future__ import annotations

import redis
from celery import current_app
from django.conf import settings
from django.db import connection

from marketplace.core.clock import utc_now
from marketplace.models import Vital
from marketplace.selectors.vital import WORKER_GONE_AFTER, WORKER_QUIET_AFTER
from marketplace.services.platform_metrics import Part, Samples, gauge
from marketplace.services.vital import WORKER

REDIS_TIMEOUT_S = 1.0
# Results of the checks that run by themselves, by their name in `Vital`.
CHECKS = ("audit", "ledger")


def _read_vitals() -> Samples:
    now = utc_now()
    rows = {row.name: row for row in Vital.objects.all()}
    ages = [
        now - row.at
        for name, row in rows.items()
        if name.startswith(WORKER) and now - row.at < WORKER_GONE_AFTER
    ]
    yield "workers_alive", sum(age < WORKER_QUIET_AFTER for age in ages), {}
    if ages:
        yield "worker_silence_seconds", min(ages).total_seconds(), {}
    for check in CHECKS:
        row = rows.get(check)
        if row is not None:
            yield "check_good", int(row.state == Vital.State.GOOD), {"check": check}
            yield "check_age_seconds", (now - row.at).total_seconds(), {"check": check}


def _read_database() -> Samples:
    with connection.cursor() as cursor:
        # Of others the role sees no more than that they are there, which is enough.
        cursor.execute(
            "SELECT count(*), current_setting('max_connections')::int FROM pg_stat_activity"
            " WHERE backend_type = 'client backend'"
        )
        used, limit = cursor.fetchone()
    yield "database_connections", used, {}
    yield "database_connections_max", limit, {}


def _read_redis() -> Samples:
    client = redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
    )
    with client:
        yield "tasks_waiting", int(client.llen(current_app.conf.task_default_queue)), {}


VITALS = Part(
    "vitals",
    (
        gauge("workers_alive", "Workers that were heard in the last 100 s."),
        gauge("worker_silence_seconds", "Since when no worker was heard."),
        gauge("check_good", "1 where the last check found all in order.", ("check",)),
        gauge("check_age_seconds", "How long ago it was made.", ("check",)),
    ),
    _read_vitals,
)
DATABASE = Part(
    "database",
    (
        gauge("database_connections", "Connections of clients to Postgres."),
        gauge("database_connections_max", "How many Postgres takes."),
    ),
    _read_database,
)
REDIS = Part(
    "redis",
    (gauge("tasks_waiting", "Tasks in the queue that no worker has taken."),),
    _read_redis,
    uses_database=False,
)
