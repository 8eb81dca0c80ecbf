"""Keep what should run running: deployments, and their replicas on the nodes.

Placement is simple on purpose: the least loaded live node that does not hold the version
yet. Scaling by load belongs to the layer that starts nodes.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from inference.models import Deployment, Node, Replica
from inference.selectors import deployment as deployments
from inference.selectors import node as nodes
from inference.selectors.warm_hour import HOUR, read_hour
from marketplace.core.clock import utc_now
from marketplace.models import ModelVersion

REPLICA_COUNT_MAX = 16
# A replica that failed is tried again after 5, 10, 20, … seconds.
BACKOFF_FIRST = timedelta(seconds=5)
BACKOFF_MAX = timedelta(minutes=5)
# Failures further back no longer slow a new try down.
BACKOFF_WINDOW = timedelta(hours=1)


def ensure_deployment(*, version: ModelVersion, replica_count: int = 1) -> Deployment:
    """Have a version run; one that is there already is woken if it sleeps."""
    assert 1 <= replica_count <= REPLICA_COUNT_MAX
    with transaction.atomic():
        # The constraint lets one of two that race win; the other reads it.
        deployment, is_new = Deployment.objects.get_or_create(
            version=version,
            stopped_at=None,
            defaults={"replica_count": replica_count} | _choose_policy(version),
        )
    if is_new:
        place_replicas(deployment_id=deployment.pk)
    elif deployment.slept_at is not None:
        load_again(deployment)
    return deployment


def load_again(deployment: Deployment) -> bool:
    """Wake a deployment; false if another has done so, or it was stopped."""
    with transaction.atomic():
        found = _lock(deployment.pk)
        if found is None or found.slept_at is None:
            return False
        Deployment.objects.filter(pk=found.pk).update(
            slept_at=None, waking_since=Now(), last_wanted_at=Now()
        )
        # Where no node is free, the sweep of all deployments tries again.
        place_replicas(deployment_id=found.pk)
        return True


def _choose_policy(version: ModelVersion) -> dict[str, Any]:
    """What happens while nobody wants it: as its creator said last, or else as the platform does.

    A version that was stopped, and a newer one, go on with what was said of the one before.
    """
    before = (
        Deployment.objects.filter(version__model=version.model_id)
        .order_by("-version__number", "-created_at")
        .first()
    )
    if before is None:
        return {"idle_after_s": settings.IDLE_AFTER_S or None}
    return {
        "idle_after_s": before.idle_after_s,
        "is_always_warm": before.is_always_warm,
        "warm_hour_nanos": before.warm_hour_nanos,
        # What ran before is charged by itself, up to where it ended.
        "next_warm_hour_at": read_hour() + HOUR if before.is_always_warm else None,
    }


def stop_deployment(*, deployment_id: UUID) -> None:
    """Stop a version; its replicas are unloaded. Repeating it changes nothing."""
    with transaction.atomic():
        deployment = _lock(deployment_id)
        if deployment is not None:
            deployment.stopped_at = utc_now()
            deployment.save(update_fields=["stopped_at"])
            release_replicas(deployment.replicas.all())


def release_replicas(replicas: QuerySet[Replica]) -> int:
    """No longer want these replicas: their node unloads them. Returns how many were wanted."""
    # Only those that change: each changed row wakes the gateways. `changed_at` stays: it is
    # when the replica itself last changed, which decides when a failed one is tried again.
    return replicas.filter(wanted=True).update(wanted=False)


def place_replicas(*, deployment_id: UUID) -> int:
    """Give a deployment the replicas it misses, as far as there are nodes; returns how many.

    One that sleeps gets none.
    Replicas that failed or were lost are replaced. One on a lost node is kept wanted until
    another node takes its place, so that a node that comes back soon is not made to start over.
    """
    with transaction.atomic():
        deployment = _lock(deployment_id)
        if deployment is None or deployment.slept_at is not None:
            return 0
        release_replicas(deployment.replicas.filter(state=Replica.State.FAILED))
        working = list(deployments.list_working_replicas(deployment))
        wanted = deployment.replica_count + deployment.load_replica_count
        missing = wanted - len(working)
        if missing <= 0 or not _is_retry_due(deployment):
            return 0
        taken = {replica.node_id for replica in working}
        chosen = find_nodes(count=missing, excluded=taken)
        lost = deployment.replicas.filter(wanted=True, state=Replica.State.LOST).order_by("pk")
        replaced = list(lost.values_list("pk", flat=True)[: len(chosen)])
        release_replicas(Replica.objects.filter(pk__in=replaced))
        for node in chosen:
            Replica.objects.create(
                version_id=deployment.version_id,
                deployment=deployment,
                node=node,
                purpose=Replica.Purpose.SERVE,
            )
        return len(chosen)


def find_nodes(
    *, count: int, excluded: Collection[UUID] = (), avoided: Collection[UUID] = ()
) -> list[Node]:
    """Live nodes for new replicas, the best first.

    Args:
        count: How many at most.
        excluded: Never these.
        avoided: These only where there is no other.
    """
    live = [node for node in nodes.list_live_nodes() if node.pk not in excluded]
    # The sort is stable: within each half the least loaded stays first.
    return sorted(live, key=lambda node: node.pk in avoided)[:count]


def _lock(deployment_id: UUID) -> Deployment | None:
    return (
        Deployment.objects.select_for_update(no_key=True)
        .filter(pk=deployment_id, stopped_at=None)
        .first()
    )


def _is_retry_due(deployment: Deployment) -> bool:
    """Whether the last failure is long enough ago, doubling with each in the last hour."""
    now = utc_now()
    failures = deployment.replicas.filter(
        state=Replica.State.FAILED, changed_at__gt=now - BACKOFF_WINDOW
    ).order_by("-changed_at")
    times = list(failures.values_list("changed_at", flat=True)[:16])
    if not times:
        return True
    wait = min(BACKOFF_MAX, BACKOFF_FIRST * 2 ** (len(times) - 1))
    return now >= times[0] + wait


def reconcile() -> None:
    """Bring deployments in line with channels and states, and replace what was lost.

    The marketplace moves channels and withdraws versions without knowing of deployments, so
    this looks at what is the case instead of being told.
    """
    for node in nodes.list_lost_nodes():
        mark_lost(node)
    for deployment in deployments.list_unservable_deployments():
        stop_deployment(deployment_id=deployment.pk)
    release_replicas(deployments.list_stray_scans())
    for version in deployments.list_undeployed_versions():
        ensure_deployment(version=version)
    for deployment in deployments.list_active_deployments():
        place_replicas(deployment_id=deployment.pk)


def mark_lost(node: Node) -> int:
    """Take a node's replicas out of service; returns how many were in it."""
    now = utc_now()
    in_service = node.replicas.filter(wanted=True).exclude(state__in=nodes.ENDED_STATES)
    count = in_service.update(state=Replica.State.LOST, changed_at=now)
    # Nobody waits for what a silent node was to unload.
    node.replicas.filter(wanted=False).exclude(state__in=nodes.ENDED_STATES).update(
        state=Replica.State.LOST, changed_at=now
    )
    if node.triton_ready:
        Node.objects.filter(pk=node.pk, triton_ready=True).update(triton_ready=False)
    return count
