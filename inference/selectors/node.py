"""Read nodes and what each of them should run. A node sees nothing but its own replicas."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import Count, Prefetch, Q, QuerySet

from inference.models import (
    Artifact,
    Deployment,
    Node,
    Replica,
    ReplicaWork,
    UploadPart,
    WrappedKey,
)
from marketplace.core import keys
from marketplace.core.clock import utc_now
from marketplace.core.errors import NotFoundError

# A node reports every 2 s; seven missed reports are no hiccup: it gets nothing new.
QUIET_AFTER = timedelta(seconds=15)
# How long others must have been heard while one was not, before its replicas are given up.
LOST_AFTER = timedelta(seconds=60)
# In a node's `info`: by how many seconds its clock is ahead of ours, as its last report showed.
CLOCK_AHEAD = "clock_ahead_s"
# A node further off could not join either: certificates and proofs of joining bear its time. It
# keeps what it serves, for leases, jobs and bookings go by the clocks of broker and database.
CLOCK_OFF_S_MAX = 300
# States in which a replica holds nothing on its node and will not by itself.
ENDED_STATES = (Replica.State.FAILED, Replica.State.LOST, Replica.State.UNLOADED)


def find_node_by_token(text: str) -> Node | None:
    """The node of this token, unless it was revoked."""
    if not text.startswith(keys.NODE) or not keys.is_well_formed(text):
        return None
    return Node.objects.filter(token_digest=keys.digest(text), revoked_at=None).first()


def list_live_nodes() -> QuerySet[Node]:
    """Nodes that report and take new replicas, whose Triton is ready, the least loaded first.

    None whose clock is further off than `CLOCK_OFF_S_MAX`.
    """
    is_right = Q(
        info__clock_ahead_s__gte=-CLOCK_OFF_S_MAX, info__clock_ahead_s__lte=CLOCK_OFF_S_MAX
    )
    return (
        Node.objects.filter(
            revoked_at=None,
            drain_requested_at=None,
            triton_ready=True,
            last_seen_at__gt=utc_now() - QUIET_AFTER,
        )
        .filter(is_right | Q(info__clock_ahead_s__isnull=True))
        .annotate(load=Count("replicas", filter=Q(replicas__wanted=True)))
        .order_by("load", "name")
    )


def list_lost_nodes() -> QuerySet[Node]:
    """Nodes that are silent while others are heard, and those that were revoked.

    When nobody is heard, it is the site that was away, and the nodes serve all the same.
    One that is truly dead then is found by the gateways' calls.
    """
    now = utc_now()
    heard_all_along = Node.objects.filter(
        revoked_at=None, last_seen_at__gt=now - QUIET_AFTER, heard_since__lte=now - LOST_AFTER
    )
    lost = ~Q(revoked_at=None)
    if heard_all_along.exists():
        lost |= Q(last_seen_at=None) | Q(last_seen_at__lte=now - LOST_AFTER)
    return Node.objects.filter(lost)


def list_wanted_replicas(node: Node) -> QuerySet[Replica]:
    """What the node should hold loaded; all else must go."""
    waiting = ReplicaWork.objects.filter(state=ReplicaWork.State.WAITING).order_by("created_at")
    return (
        node.replicas.filter(wanted=True)
        .exclude(state=Replica.State.FAILED)
        .prefetch_related(Prefetch("work", queryset=waiting, to_attr="waiting_work"))
        .order_by("pk")
    )


def describe_desired(node: Node) -> dict[str, Any]:
    """The desired state of a node, as its agent reads it."""
    return {
        "node_id": str(node.pk),
        "replicas": [
            {
                "id": str(replica.pk),
                "version_id": str(replica.version_id),
                "purpose": replica.purpose,
                "triton_name": replica.triton_name,
                "work": _describe_work(replica.waiting_work),  # type: ignore[attr-defined]
            }
            for replica in list_wanted_replicas(node)
        ],
    }


def _describe_work(waiting: list[ReplicaWork]) -> dict[str, str] | None:
    return {"id": str(waiting[0].pk), "kind": waiting[0].kind} if waiting else None


def access_artifact(node: Node, version_id: UUID) -> Artifact:
    """The artifact of a version that this node should run, or may have to soon.

    Raises:
        NotFoundError: No such version, or it is not this node's business.
    """
    artifact = Artifact.objects.select_related("signing_key").filter(version_id=version_id).first()
    if artifact is None or not _may_fetch(node, version_id):
        raise NotFoundError("No such artifact on this node.")
    return artifact


def access_part(node: Node, version_id: UUID, file_index: int, part: int) -> UploadPart:
    """A stored part of a version that this node should run, or may have to soon.

    Raises:
        NotFoundError: As `access_artifact`, or there is no such part.
    """
    row = UploadPart.objects.filter(
        upload__artifact__version_id=version_id,
        file_index=file_index,
        part=part,
    ).first()
    if row is None or not _may_fetch(node, version_id):
        raise NotFoundError("No such part on this node.")
    return row


def access_work(node: Node, work_id: UUID) -> ReplicaWork:
    """A piece of work of one of this node's replicas.

    Raises:
        NotFoundError: None of that id on this node.
    """
    work = (
        ReplicaWork.objects.select_related("replica").filter(pk=work_id, replica__node=node).first()
    )
    if work is None:
        raise NotFoundError("No such work on this node.")
    return work


def list_likely(node: Node) -> list[dict[str, Any]]:
    """Versions that a node may be given next, the one that was wanted last first.

    What it holds already is not among them. Ciphertext is all that comes of it: a key is
    released for a replica on that node, and for nothing else. Empty unless the platform is told
    to allow it.
    """
    deployments = (
        _likely_deployments()
        .exclude(version__in=node.replicas.filter(wanted=True).values("version_id"))
        .select_related("version__model__account", "version__artifact")
    )
    return [
        {
            "version_id": str(one.version_id),
            "name": str(one.version),
            "size_bytes": one.version.artifact.size_bytes,
        }
        for one in deployments[: settings.PREFETCH_VERSIONS]
    ]


def _likely_deployments() -> QuerySet[Deployment]:
    return Deployment.objects.filter(stopped_at=None, version__artifact__isnull=False).order_by(
        "-last_wanted_at", "-pk"
    )


def _may_fetch(node: Node, version_id: UUID) -> bool:
    """Whether ciphertext of a version is this node's business."""
    if node.replicas.filter(wanted=True, version_id=version_id).exists():
        return True
    # With some to spare: the order may have changed since the node was told.
    likely = _likely_deployments().values_list("version_id", flat=True)
    return version_id in set(likely[: 2 * settings.PREFETCH_VERSIONS])


def describe_artifact(artifact: Artifact) -> dict[str, Any]:
    """An artifact as a node fetches it: the creator's own wrap is nobody's business there."""
    wraps = WrappedKey.objects.filter(
        version_id=artifact.version_id, recipient=WrappedKey.Recipient.PLATFORM
    )
    return {
        "manifest": artifact.manifest,
        "signature": artifact.signature,
        "signing_public_key": artifact.signing_key.public_key,
        "wrapped_keys": [
            {"recipient": one.recipient, "kid": one.kid, "suite": one.suite, "blob": one.blob}
            for one in wraps
        ],
        # Under these names a mirror of the object store has the parts.
        "objects": {
            f"{one.file_index}-{one.part}": one.storage_name
            for one in UploadPart.objects.filter(upload=artifact.upload_id)
        },
    }
