"""Watch a model for drift: join what gateways counted, and keep what it is compared with.

Gateways write parts, which nobody sees. The parts of the hours that are over are joined, oldest
first, until they hold `PREDICTIONS_MIN` predictions of `ACCOUNTS_MIN` accounts; then they become
a block and are deleted. Pages read blocks and what was made of whole blocks. So what is shown of
two windows never differs by less than a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction

from inference.core import drift
from inference.models import DriftBaseline, DriftBlock, DriftPart, DriftWatch
from inference.selectors.drift import FIRST_DAYS
from marketplace.core.clock import utc_now
from marketplace.core.errors import InvalidInputError
from marketplace.models import AIModel, ModelVersion
from marketplace.selectors.access import Actor, require_right
from marketplace.services import audit

# Fewer are joined with those of later hours, and not shown before.
PREDICTIONS_MIN = 50
ACCOUNTS_MIN = 3
HOUR = timedelta(hours=1)
# Gateways write once a minute; one that Postgres was away from comes later.
LATE = timedelta(minutes=5)
# What too few have asked for is forgotten, joined or not.
PART_KEPT = timedelta(days=14)
# Parts of a version that one run looks at; the next run goes on.
PARTS_MAX = 5_000
VERSIONS_MAX = 500


# --- What creators do -------------------------------------------------------------


@transaction.atomic
def watch(*, actor: Actor, model: AIModel) -> None:
    """Have counted what a model's predictions look like; again, it changes nothing.

    The model's page says so from then on.
    """
    require_right(actor, model.account, "push")
    row, is_new = DriftWatch.objects.get_or_create(model=model)
    if is_new:
        payload = {"model": str(model)}
        audit.record(actor.label, "drift.watch", row, account_id=model.account_id, payload=payload)


@transaction.atomic
def unwatch(*, actor: Actor, model: AIModel) -> None:
    """Count no more, and delete what was counted."""
    require_right(actor, model.account, "push")
    row = DriftWatch.objects.select_for_update().filter(model=model).first()
    if row is None:
        return
    payload = {"model": str(model)}
    audit.record(actor.label, "drift.unwatch", row, account_id=model.account_id, payload=payload)
    row.delete()
    for table in (DriftPart, DriftBlock, DriftBaseline):
        table.objects.filter(model_id=model.pk).delete()


@transaction.atomic
def pin_baseline(*, actor: Actor, version: ModelVersion, first: date, last: date) -> DriftBaseline:
    """Compare a version with chosen days, instead of its first ones.

    Args:
        actor: Who chooses; needs the right to push.
        version: Of a model that is watched.
        first: The first day in UTC.
        last: The last day; it may be the same.

    Raises:
        InvalidInputError: The days are the wrong way round, or nothing is known of them.
    """
    require_right(actor, version.model.account, "push")
    if last < first:
        detail = "Must not be before the first day."
        raise InvalidInputError(errors=[{"pointer": "/last", "detail": detail}])
    since = datetime.combine(first, time(), UTC)
    until = datetime.combine(last, time(), UTC) + timedelta(days=1)
    blocks = list(
        DriftBlock.objects.filter(
            version_id=version.pk, scheme=drift.SCHEME, starts_at__gte=since, ends_at__lte=until
        )
    )
    if not blocks:
        detail = "Too few predictions were counted in these days."
        raise InvalidInputError(errors=[{"pointer": "/first", "detail": detail}])
    fields = _join(blocks)
    row, _ = DriftBaseline.objects.update_or_create(
        version_id=version.pk, kind=DriftBaseline.Kind.PINNED, defaults=fields
    )
    payload = {"version": str(version), "first": first.isoformat(), "last": last.isoformat()}
    audit.record(
        actor.label, "drift.pin", row, account_id=version.model.account_id, payload=payload
    )
    return row


@transaction.atomic
def unpin_baseline(*, actor: Actor, version: ModelVersion) -> None:
    """Compare a version with its first days again."""
    account = version.model.account
    require_right(actor, account, "push")
    rows = DriftBaseline.objects.filter(version_id=version.pk, kind=DriftBaseline.Kind.PINNED)
    row = rows.select_for_update().first()
    if row is not None:
        payload = {"version": str(version)}
        audit.record(actor.label, "drift.unpin", row, account_id=account.pk, payload=payload)
        row.delete()


# --- What workers do --------------------------------------------------------------


def seal_blocks() -> int:
    """Join the parts of hours that are over; returns how many blocks came of it."""
    now = utc_now()
    parts = DriftPart.objects.filter(hour__lt=now - HOUR - LATE, scheme=drift.SCHEME)
    due = parts.order_by("version_id").values_list("version_id", flat=True).distinct()
    count = sum(_seal(version_id, now) for version_id in due[:VERSIONS_MAX])
    _forget(now)
    return count


@dataclass(slots=True)
class _Pile:
    """Parts that wait for their like."""

    parts: list[DriftPart] = field(default_factory=list)
    predictions: int = 0
    accounts: int = 0

    def add(self, part: DriftPart) -> None:
        self.parts.append(part)
        self.predictions += part.predictions
        self.accounts |= part.accounts

    @property
    def is_enough(self) -> bool:
        """Whether it may be shown: two accounts may share a bit, so there are as many at least."""
        return self.predictions >= PREDICTIONS_MIN and self.accounts.bit_count() >= ACCOUNTS_MIN


@transaction.atomic
def _seal(version_id: UUID, now: datetime) -> int:
    # A second worker at the same time finds nothing, and makes no second block.
    rows = DriftPart.objects.select_for_update(skip_locked=True).filter(
        version_id=version_id, scheme=drift.SCHEME, hour__lt=now - HOUR - LATE
    )
    count = 0
    pile = _Pile()
    hours: dict[datetime, list[DriftPart]] = {}
    for part in rows.order_by("hour", "pk")[:PARTS_MAX]:
        hours.setdefault(part.hour, []).append(part)
    # An hour is never split: parts are of gateways and minutes, which is finer than is shown.
    for parts in hours.values():
        for part in parts:
            pile.add(part)
        if pile.is_enough:
            _write(pile.parts)
            pile = _Pile()
            count += 1
    if count:
        _keep_first_days(version_id)
    return count


def _write(parts: Sequence[DriftPart]) -> None:
    DriftBlock.objects.create(
        model_id=parts[0].model_id,
        version_id=parts[0].version_id,
        starts_at=min(one.hour for one in parts),
        ends_at=max(one.hour for one in parts) + HOUR,
        scheme=drift.SCHEME,
        predictions=sum(one.predictions for one in parts),
        sketch=drift.merge(one.sketch for one in parts),
    )
    DriftPart.objects.filter(pk__in=[one.pk for one in parts]).delete()


def _keep_first_days(version_id: UUID) -> None:
    """Keep the first days as the baseline, once they are over."""
    blocks = DriftBlock.objects.filter(version_id=version_id, scheme=drift.SCHEME)
    kept = DriftBaseline.objects.filter(
        version_id=version_id, kind=DriftBaseline.Kind.FIRST, scheme=drift.SCHEME
    )
    first = blocks.order_by("starts_at").first()
    if first is None or kept.exists():
        return
    until = first.starts_at + FIRST_DAYS
    if blocks.filter(ends_at__gt=until).exists():
        early = list(blocks.filter(ends_at__lte=until)) or [first]
        DriftBaseline.objects.update_or_create(
            version_id=version_id, kind=DriftBaseline.Kind.FIRST, defaults=_join(early)
        )


def _join(blocks: Sequence[DriftBlock]) -> dict[str, object]:
    return {
        "model_id": blocks[0].model_id,
        "starts_at": min(one.starts_at for one in blocks),
        "ends_at": max(one.ends_at for one in blocks),
        "scheme": drift.SCHEME,
        "predictions": sum(one.predictions for one in blocks),
        "sketch": drift.merge(_sketches(blocks)),
    }


def _sketches(blocks: Iterable[DriftBlock]) -> Iterable[dict[str, dict[str, int]]]:
    return (one.sketch for one in blocks)


def _forget(now: datetime) -> None:
    """Drop what is old, and what was counted after somebody ceased to watch."""
    watched = DriftWatch.objects.values("model_id")
    DriftPart.objects.filter(hour__lt=now - PART_KEPT).delete()
    DriftPart.objects.exclude(model_id__in=watched).delete()
    kept = timedelta(days=settings.METRIC_HOUR_DAYS)
    DriftBlock.objects.filter(ends_at__lt=now - kept).delete()
