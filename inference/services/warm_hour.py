"""Versions that are always warm cost their owner money, hour by hour.

Each full hour of UTC is charged after it is over, in the transaction that notes that it is. What
cannot be paid is not owed: the version may be unloaded from then on.
"""

from __future__ import annotations

import logging
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.urls import reverse

from inference.errors import AlwaysWarmUnpaidError
from inference.models import Deployment
from inference.selectors.warm_hour import (
    HOUR,
    is_served_now,
    list_due_deployments,
    read_hour,
)
from marketplace.core.errors import AccountFrozenError, InsufficientCreditError, MarketplaceError
from marketplace.core.money import format_nanos
from marketplace.models import Notification
from marketplace.services import audit
from marketplace.services.cashier import WarmHour, get_cashier
from marketplace.services.notice import owe_notice

logger = logging.getLogger(__name__)

SYSTEM_LABEL = "system:warm-hours"
# What `choose` sets.
FIELDS = ("is_always_warm", "warm_hour_nanos", "next_warm_hour_at")
# What workers missed is made up for so far back. Whether a version was served all the while is
# known of the present alone: a bill for more than a day would be a guess, and is our loss.
CATCH_UP_HOURS_MAX = 24
# Where neither its creator nor the platform says when a version is unloaded: what was kept loaded
# for money, and is paid for no more, does not stay loaded for nothing.
UNPAID_IDLE_AFTER_S = 3_600


def choose(deployment: Deployment, *, is_always_warm: bool) -> None:
    """Set on a locked deployment whether it is always warm; the caller saves `FIELDS`.

    What it has been already stays as it is, its price included.

    Raises:
        AlwaysWarmUnpaidError: The owner's wallet could not pay a first hour.
        AccountFrozenError: It pays nothing before its payments are clear.
    """
    if is_always_warm == deployment.is_always_warm:
        return
    if is_always_warm:
        _check_hour(deployment, settings.WARM_HOUR_NANOS)
    deployment.is_always_warm = is_always_warm
    deployment.warm_hour_nanos = settings.WARM_HOUR_NANOS if is_always_warm else None
    # The hour that has begun is free, and so is the one in which it ends.
    deployment.next_warm_hour_at = read_hour() + HOUR if is_always_warm else None


def _check_hour(deployment: Deployment, nanos: int) -> None:
    if not nanos:
        return
    try:
        get_cashier().check(deployment.version.model.account, nanos)
    except InsufficientCreditError:
        detail = f"An hour of a version that is always warm costs {format_nanos(nanos)}."
        raise AlwaysWarmUnpaidError(f"{detail} The wallet does not hold it.") from None


def charge_warm_hours() -> int:
    """Charge all hours that are over; returns how many. Safe to run twice, also at once."""
    found = list(list_due_deployments().values_list("pk", flat=True))
    return sum(_charge_deployment(deployment_id) for deployment_id in found)


def _charge_deployment(deployment_id: UUID) -> int:
    """Hour by hour, each in its own transaction: what dies between two loses neither."""
    count = 0
    try:
        while (charged := _charge_next(deployment_id)) is not None:
            count += charged
    except Exception:  # One that is in trouble is tried again, and keeps no other waiting.
        logger.exception("deployment %s: an hour could not be charged", deployment_id)
    return count


def _charge_next(deployment_id: UUID) -> int | None:
    """Charge the oldest hour; returns how many were charged, None where none is due."""
    with transaction.atomic():
        # Whoever comes at the same time waits here, and finds it due no more.
        rows = list_due_deployments().select_for_update(no_key=True, of=("self",))
        found = rows.select_related("version__model__account").filter(pk=deployment_id).first()
        if found is None:
            return None
        present = read_hour()
        if not is_served_now(found):
            # Nobody pays for what was not there when it was looked at.
            _move_on(found, present)
            return 0
        hour = _name_hour(found, present)
        try:
            is_charged = get_cashier().charge(hour)
        except (InsufficientCreditError, AccountFrozenError) as error:
            _fall_back(found, error)
            return 0
        _move_on(found, hour.starts_at + HOUR)
        return int(is_charged)


def _name_hour(deployment: Deployment, present: datetime) -> WarmHour:
    starts_at, nanos = deployment.next_warm_hour_at, deployment.warm_hour_nanos
    assert starts_at is not None, "constraint inference_warm_hour_begins"
    assert nanos is not None, "of list_due_deployments"
    oldest = present - CATCH_UP_HOURS_MAX * HOUR
    if starts_at < oldest:
        logger.warning("deployment %s: hours from %s are not charged", deployment.pk, starts_at)
    return WarmHour(
        account=deployment.version.model.account,
        deployment_id=deployment.pk,
        version_id=deployment.version_id,
        starts_at=max(starts_at, oldest),
        amount_nanos=nanos,
    )


def _move_on(deployment: Deployment, to: datetime) -> None:
    Deployment.objects.filter(pk=deployment.pk).update(next_warm_hour_at=to)


def _fall_back(deployment: Deployment, error: MarketplaceError) -> None:
    """Let it be unloaded while nobody calls it, as one that was never always warm."""
    model, nanos = deployment.version.model, deployment.warm_hour_nanos
    idle_after_s = deployment.idle_after_s or settings.IDLE_AFTER_S or UNPAID_IDLE_AFTER_S
    Deployment.objects.filter(pk=deployment.pk).update(
        is_always_warm=False,
        warm_hour_nanos=None,
        next_warm_hour_at=None,
        idle_after_s=idle_after_s,
    )
    audit.record(
        SYSTEM_LABEL,
        "deployment.unpaid",
        deployment,
        account_id=model.account_id,
        payload={
            "model": str(model),
            "version": deployment.version.number,
            "reason": error.code,
            "warm_hour_nanos": nanos,
            "idle_after_s": idle_after_s,
        },
    )
    path = reverse("inference:cold-start", args=[model.account.slug, model.name])
    owe_notice(
        "always_warm_unpaid",
        {
            "model": model,
            "number": deployment.version.number,
            "nanos": nanos,
            "minutes": idle_after_s // 60,
            "is_frozen": isinstance(error, AccountFrozenError),
            "path": path,
        },
        kind=Notification.Kind.PAYMENT,
        path=path,
        account=model.account,
    )
