"""Make what a busy account has, to look at pages and to measure them. Development only.

Roll-ups, and around them an inbox, windows of drift and 90 days of status.
"""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection, transaction

from inference.core import drift
from inference.core.histogram import find_bucket
from inference.models import DriftBlock, DriftWatch, Metric, MetricCursor
from inference.services import metric
from marketplace.core.clock import utc_now
from marketplace.core.ids import lowest_id
from marketplace.models import (
    Account,
    AIModel,
    ModelVersion,
    Notification,
    Part,
    StatusDay,
)

DAYS = 90
HOURS_KEPT = timedelta(days=34)
MINUTES_KEPT = timedelta(hours=47)
# Models that have minutes as well, and those whose consumers have hours.
MINUTE_MODELS = 10
CONSUMER_MODELS = 20
CONSUMERS = 12
# Lines in the inbox of each owner, three hours apart; some are not read yet.
LINES = 200
LINES_UNREAD = 60
# Days of hourly windows; in the last of them other texts arrive, and twice as long ones.
DRIFT_DAYS = 14
DRIFT_PREDICTIONS = 1_000
DAY_MINUTES = 24 * 60
INTERFACE = {
    "inputs": [
        {"name": "text", "kind": "text"},
        {"name": "mode", "kind": "choice", "choices": ["fast", "good"]},
    ],
    "outputs": [
        {"name": "scores", "kind": "tensor", "datatype": "FP32", "shape": [2], "hidden": True},
        {"name": "kind", "kind": "label", "source": "scores", "labels": ["cat", "dog"]},
    ],
}
# How latencies lie around a model's own middle, in buckets of 10 %.
SHAPE = (0.02, 0.08, 0.18, 0.25, 0.2, 0.12, 0.07, 0.04, 0.02, 0.01, 0.006, 0.004)

_TOLD_OF_ACCOUNTS = {
    *("account", "signing_key", "payment", "invoice", "low_balance", "budget", "price"),
    *("payout", "onboarding", "review", "moderation", "alert", "abuse"),
}
_METRICS = """
    INSERT INTO inference_metric (model_id, version_id, resolution, starts_at, predictions,
        succeeded, canceled, failed_input, failed_model, failed_timeout, failed_capacity,
        failed_platform, rows, gross_nanos, creator_nanos, latency_buckets, latency_counts,
        refused_input, refused_limit, refused_credit, refused_capacity,
        queue_buckets, queue_counts, first_token_buckets, first_token_counts)
    SELECT m.model_id, CASE WHEN at < %(released_at)s THEN m.old_id ELSE m.new_id END,
        %(resolution)s, at,
        n, greatest(0, n - c - i - f - t - p), c, i, f, t, 0, p, n,
        n * m.nanos, n * m.nanos * 8 / 10,
        (SELECT array_agg(m.middle + k ORDER BY k) FROM generate_series(0, %(last)s) k),
        (SELECT array_agg(floor(n * w + random())::integer ORDER BY k)
            FROM unnest(%(shape)s::float[]) WITH ORDINALITY s(w, k)),
        floor(n / 50.0 + random()), floor(n / 150.0 + random()), floor(n / 500.0 + random()), 0,
        ARRAY[2, 4, 6],
        ARRAY[ceil(n * 0.7), floor(n * 0.2 + random()), floor(n * 0.1 + random())]::integer[],
        ARRAY[5, 6, 7],
        ARRAY[floor(n * 0.1 + random()), ceil(n * 0.8), floor(n * 0.1 + random())]::integer[]
    FROM jsonb_to_recordset(%(models)s::jsonb)
            AS m(model_id uuid, old_id uuid, new_id uuid, middle integer, nanos bigint,
                per_day double precision),
        generate_series(%(since)s, %(until)s - interval '1 second', %(step)s) at,
        LATERAL (SELECT round(m.per_day * %(share)s * (0.8 + random() * 0.4)
            * (1 + 0.5 * sin(extract(epoch FROM at) * 2 * pi() / 86400)))::bigint AS n) drawn,
        LATERAL (SELECT floor(n / 200.0 + random())::bigint AS c,
            floor(n / 100.0 + random())::bigint AS i, floor(n / 400.0 + random())::bigint AS f,
            floor(n / 300.0 + random())::bigint AS t, floor(n / 500.0 + random())::bigint AS p)
            wrong
    WHERE n > 0
"""
_CONSUMERS = """
    INSERT INTO inference_consumermetric (model_id, account_id, resolution, starts_at,
        predictions, failed, gross_nanos, creator_nanos)
    SELECT m.model_id, md5(i::text)::uuid, %(resolution)s, at, n, n / 50, n * m.nanos,
        n * m.nanos * 8 / 10
    FROM jsonb_to_recordset(%(models)s::jsonb)
            AS m(model_id uuid, nanos bigint, per_day double precision),
        generate_series(1, %(consumers)s) i,
        generate_series(%(since)s, %(until)s - interval '1 second', %(step)s) at,
        LATERAL (SELECT floor(m.per_day * %(share)s * 2 * random() / i + random())::bigint AS n)
            drawn
    WHERE n > 0
"""


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("account", help="its name; its models are made where they are missing")
        parser.add_argument("--models", type=int, default=200)
        parser.add_argument("--predictions", type=int, default=5_000_000)

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEVELOPMENT:
            raise CommandError("Numbers are made up in development only.")
        account = Account.objects.filter(slug=options["account"]).first()
        if account is None:
            raise CommandError("There is no such account.")
        if not (1 <= options["models"] <= 1_000 and 1 <= options["predictions"] <= 1 << 40):
            raise CommandError("From 1 to 1,000 models, and from 1 prediction.")
        count = seed(account, models=options["models"], predictions=options["predictions"])
        seed_inbox(account)
        seed_drift(account.models.get(name="busy-001"))
        seed_status()
        with connection.cursor() as sql:
            # Else the plans of the next minutes are those of empty tables.
            sql.execute("ANALYZE inference_metric, inference_consumermetric")
        self.stdout.write(f"{count:,} rows of roll-ups")


@transaction.atomic
def seed(account: Account, *, models: int, predictions: int) -> int:
    """Make the numbers anew; returns how many rows of models there are."""
    rows = _make_models(account, models, predictions)
    now = utc_now()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    hour = now.replace(minute=0, second=0, microsecond=0)
    minute = now.replace(second=0, microsecond=0)
    hours_since = midnight - HOURS_KEPT
    minutes_since = hour - MINUTES_KEPT
    released_at = midnight - timedelta(days=2)
    model_ids = [one["model_id"] for one in rows]
    Metric.objects.filter(model_id__in=model_ids).delete()
    with connection.cursor() as sql:
        sql.execute(
            "DELETE FROM inference_consumermetric WHERE model_id = ANY(%s::uuid[])", [model_ids]
        )
        # The same numbers each time.
        sql.execute("SELECT setseed(0.42)")
        fill = _Filler(sql, released_at)
        first = midnight - timedelta(days=DAYS - 1)
        fill.add("day", first, hours_since, rows, rows)
        fill.add("hour", hours_since, minutes_since, rows, rows[:CONSUMER_MODELS])
        fill.add("hour", minutes_since, hour + metric.HOUR, rows[MINUTE_MODELS:], [])
        busy = rows[:MINUTE_MODELS]
        fill.add("minute", minutes_since, minute + metric.MINUTE, busy, busy)
    metric.roll_longer(hours_since, minute + metric.MINUTE)
    for one in metric.PASSES:
        MetricCursor.objects.update_or_create(name=one.name, defaults={"reached_at": minute})
    return Metric.objects.filter(model_id__in=model_ids).count()


@transaction.atomic
def seed_inbox(account: Account) -> None:
    """Lines of all kinds that an account is told of, for each of its owners."""
    now = utc_now()
    kinds = [one for one in Notification.Kind if one.value in _TOLD_OF_ACCOUNTS]
    Notification.objects.filter(account=account, key__startswith="seeded-").delete()
    lines: list[Notification] = []
    for owner in account.memberships.filter(role="owner"):
        for place in range(LINES):
            kind = kinds[place % len(kinds)]
            at = now - timedelta(hours=3 * place)
            lines.append(
                Notification(
                    pk=UUID(int=lowest_id(at).int + len(lines)),
                    person_id=owner.user_id,
                    account=account,
                    kind=kind,
                    key=f"seeded-{place}",
                    title=f"{kind.label}: something happened to {account.slug}/busy-001",
                    text="What it means, and what can be done." if place % 3 else "",
                    path="/dashboard/models" if place % 4 else "",
                    created_at=at,
                    read_at=None if place < LINES_UNREAD else at,
                )
            )
    Notification.objects.bulk_create(lines)


@transaction.atomic
def seed_drift(model: AIModel) -> None:
    """Hourly windows of the newest version, which drifts on its last day."""
    version = model.versions.order_by("-number")[0]
    version.interface = INTERFACE
    version.save(update_fields=["interface"])
    DriftWatch.objects.get_or_create(model=model)
    DriftBlock.objects.filter(model_id=model.pk).delete()
    end = utc_now().replace(minute=0, second=0, microsecond=0)
    DriftBlock.objects.bulk_create(
        DriftBlock(
            model_id=model.pk,
            version_id=version.pk,
            starts_at=end - timedelta(hours=hour + 1),
            ends_at=end - timedelta(hours=hour),
            scheme=drift.SCHEME,
            predictions=DRIFT_PREDICTIONS,
            sketch=_make_sketch(is_shifted=hour < 24),
        )
        for hour in range(DRIFT_DAYS * 24)
    )


def _make_sketch(*, is_shifted: bool) -> drift.Sketch:
    count = DRIFT_PREDICTIONS
    fast = count * (8 if is_shifted else 5) // 10
    return drift.merge(
        [
            {
                "input:text:length": {30 if is_shifted else 26: count},
                "input:text:writing": {0: count},
                "input:mode:choice": {0: fast, 1: count - fast},
                "output:kind:label": {0: count},
                "output:kind:score": {18: count},
            }
        ]
    )


def seed_status() -> None:
    """The days before today; what was measured stays."""
    now = utc_now()
    StatusDay.objects.bulk_create(
        [
            StatusDay(
                part=part,
                day=(now - timedelta(days=ago)).date(),
                up=DAY_MINUTES - degraded - down,
                degraded=degraded,
                down=down,
                sampled_at=now - timedelta(days=ago),
                state="up",
            )
            for place, part in enumerate(Part)
            for ago in range(1, DAYS)
            for degraded in (12 if (ago + place) % 10 == 0 else 0,)
            for down in (5 if (ago + 7 * place) % 31 == 0 else 0,)
        ],
        ignore_conflicts=True,
    )


class _Filler:
    def __init__(self, sql: Any, released_at: datetime) -> None:
        self.sql = sql
        self.released_at = released_at

    def add(
        self,
        resolution: str,
        since: datetime,
        until: datetime,
        models: list[dict[str, Any]],
        asked: list[dict[str, Any]],
    ) -> None:
        """Rows of models, and of the consumers of those that are `asked`."""
        step = {"minute": metric.MINUTE, "hour": metric.HOUR, "day": metric.DAY}[resolution]
        parameters = {
            "resolution": resolution,
            "since": since,
            "until": until,
            "step": step,
            "share": step / metric.DAY,
            "released_at": self.released_at,
            "last": len(SHAPE) - 1,
            "shape": list(SHAPE),
            "consumers": CONSUMERS,
        }
        self.sql.execute(_METRICS, parameters | {"models": _to_json(models)})
        self.sql.execute(_CONSUMERS, parameters | {"models": _to_json(asked)})


def _to_json(models: list[dict[str, Any]]) -> str:
    return json.dumps(models, default=str)


def _make_models(account: Account, count: int, predictions: int) -> list[dict[str, Any]]:
    """Models by how busy they are: the second has half of the traffic of the first."""
    names = [f"busy-{rank:03d}" for rank in range(1, count + 1)]
    AIModel.objects.bulk_create(
        [AIModel(account=account, name=name, title=name.capitalize()) for name in names],
        ignore_conflicts=True,
    )
    models = list(AIModel.objects.filter(account=account, name__in=names).order_by("name"))
    ModelVersion.objects.bulk_create(
        [
            ModelVersion(model=model, number=number, state="approved")
            for model in models
            for number in (1, 2)
        ],
        ignore_conflicts=True,
    )
    versions: dict[UUID, dict[int, UUID]] = {}
    for model_id, number, pk in ModelVersion.objects.filter(
        model__in=models, number__in=(1, 2)
    ).values_list("model_id", "number", "pk"):
        versions.setdefault(model_id, {})[number] = pk
    whole = sum(1 / rank for rank in range(1, count + 1))
    return [
        {
            "model_id": model.pk,
            "old_id": versions[model.pk][1],
            "new_id": versions[model.pk][2],
            "middle": find_bucket(1_000 * (20 + 400 * abs(math.sin(rank)))),
            "nanos": 100_000 * (1 + rank % 30),
            "per_day": predictions / DAYS / rank / whole,
        }
        for rank, model in enumerate(models, start=1)
    ]
