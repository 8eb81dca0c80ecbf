"""Unload what nobody wants, and load it again for the first who does.

Whoever wants a version leaves a wish in Postgres (`inference_wake` in `inference/sql/wake.sql`).
It stays until a replica was placed for it in the same transaction, so a worker that dies loses
none; and the deployment's row is locked meanwhile, so that many wishes are one load.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import Min
from django.db.models.functions import Now

from inference.models import Deployment, Replica, WakeWish
from inference.models.node import IDLE_AFTER_MAX_S, IDLE_AFTER_MIN_S
from inference.selectors import wake as selectors
from inference.services import copies
from inference.services import deployment as deployments
from inference.services import warm_hour as warm_hours
from marketplace.core.errors import InvalidInputError
from marketplace.selectors.access import Actor, require_right
from marketplace.services import audit

# A load of hours is a fault of something, and no measure of a cold start.
COLD_START_MAX_MS = 3_600_000


def sweep() -> None:
    """All that keeps running what should run, and lets rest what nobody wants."""
    copies.adjust_copies()
    deployments.reconcile()
    # Wishes that no listener has heard; see `inference.tasks.wake`.
    answer_wishes()
    unload_idle()


def answer_wishes() -> int:
    """Wake every version that somebody wants, and note which came up; returns how many woke."""
    count = sum(wake_version(version_id) for version_id in selectors.list_wished_versions())
    for deployment in selectors.list_woken_deployments():
        note_cold_start(deployment)
    return count


def wake_version(version_id: UUID) -> bool:
    """Answer all wishes for a version; true if it slept, and is being loaded again now."""
    with transaction.atomic():
        deployment = lock_deployment(version_id)
        WakeWish.objects.filter(version_id=version_id).delete()
        if deployment is None:
            # It was withdrawn, or stopped, since somebody wanted it.
            return False
        Deployment.objects.filter(pk=deployment.pk).update(last_wanted_at=Now())
        if deployments.load_again(deployment):
            return True
        # It does not sleep: where its replicas are missing, they are placed without delay.
        deployments.place_replicas(deployment_id=deployment.pk)
        return False


def lock_deployment(version_id: UUID) -> Deployment | None:
    """The deployment of a version, for the rest of the transaction; None where there is none."""
    return (
        Deployment.objects.select_for_update(no_key=True)
        .filter(version_id=version_id, stopped_at=None)
        .first()
    )


def note_cold_start(deployment: Deployment) -> None:
    """Remember how long a deployment took to come up, now that it has."""
    ready = deployment.replicas.filter(wanted=True, state=Replica.State.READY)
    ready_at: datetime | None = ready.aggregate(at=Min("changed_at"))["at"]
    since = deployment.waking_since
    if ready_at is None or since is None:
        return
    took_ms = round((ready_at - since).total_seconds() * 1000)
    # Only if it is still the same start: it may sleep and wake while this is written.
    Deployment.objects.filter(pk=deployment.pk, waking_since=since).update(
        waking_since=None, cold_start_ms=min(COLD_START_MAX_MS, max(1, took_ms))
    )


def unload_idle() -> int:
    """Put to sleep what nobody has wanted for as long as its policy says; returns how many."""
    found = list(selectors.list_idle_deployments().values_list("version_id", flat=True))
    return sum(_unload(version_id) for version_id in found)


def _unload(version_id: UUID) -> bool:
    with transaction.atomic():
        if lock_deployment(version_id) is None:
            return False
        # Somebody may have wanted it until the row was locked.
        deployment = selectors.list_idle_deployments().filter(version_id=version_id).first()
        if deployment is None:
            return False
        Deployment.objects.filter(pk=deployment.pk).update(
            slept_at=Now(), waking_since=None, load_replica_count=0
        )
        deployments.release_replicas(deployment.replicas.all())
        return True


def set_policy(
    *, actor: Actor, deployment: Deployment, idle_after_s: int | None, is_always_warm: bool
) -> Deployment:
    """Say what happens to a version while nobody calls it.

    Args:
        actor: Who says so; needs the right to push.
        deployment: Of which version.
        idle_after_s: Seconds without a call after which it is unloaded; None for never.
        is_always_warm: Whether it stays loaded whatever `idle_after_s` says. It wakes at once, and
            each full hour is charged at the price of the moment in which it was chosen.

    Raises:
        InvalidInputError: The time is out of its range.
        AlwaysWarmUnpaidError: The wallet of the model's owner could not pay a first hour.
        AccountFrozenError: It pays nothing before its payments are clear.
    """
    model = deployment.version.model
    require_right(actor, model.account, "push")
    if idle_after_s is not None and not IDLE_AFTER_MIN_S <= idle_after_s <= IDLE_AFTER_MAX_S:
        detail = f"Between {IDLE_AFTER_MIN_S} and {IDLE_AFTER_MAX_S} seconds."
        raise InvalidInputError(errors=[{"pointer": "/idle_after_s", "detail": detail}])
    with transaction.atomic():
        found = lock_deployment(deployment.version_id)
        if found is None:
            raise InvalidInputError("The version is not deployed any more.")
        found.idle_after_s = idle_after_s
        warm_hours.choose(found, is_always_warm=is_always_warm)
        found.save(update_fields=["idle_after_s", *warm_hours.FIELDS])
        if is_always_warm or idle_after_s is None:
            deployments.load_again(found)
        payload = {
            "model": str(model),
            "version": deployment.version.number,
            "idle_after_s": idle_after_s,
            "is_always_warm": is_always_warm,
            "warm_hour_nanos": found.warm_hour_nanos,
        }
        audit.record(
            actor.label,
            "deployment.set_policy",
            found,
            account_id=model.account_id,
            payload=payload,
        )
    return selectors.get_deployment(model, deployment.version.number)
