"""The scan replica of a version under onboarding: the one place where it is opened and tried.

A version gets a few attempts, each on another replica and, where there is one, another
node. Only failures that are not the model's fault are tried again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import QuerySet

from inference.models import Replica, ReplicaWork
from inference.services import deployment
from marketplace.core.clock import utc_now
from marketplace.models import ModelVersion

ATTEMPTS_MAX = 3
# A node reports progress while it fetches, decrypts and loads; silence this long is a hang.
STUCK_AFTER = timedelta(minutes=5)
# How long a node may take over a piece of work.
WORK_TIME_LIMITS: dict[str, timedelta] = {
    ReplicaWork.Kind.TEST: timedelta(minutes=10),
    ReplicaWork.Kind.BENCHMARK: timedelta(minutes=15),
}
NODE_UNAVAILABLE = "node_unavailable"
# Codes that say nothing about the model: a machine, a network or a process of ours broke.
INFRASTRUCTURE_CODES = frozenset(
    {
        NODE_UNAVAILABLE,
        "triton_unavailable",
        "triton_start_failed",
        "keybroker_unavailable",
        "fetch_failed",
        "disk_full",
        "lease_lost",
        "lease_expired",
        "nonce_replayed",
        "evidence_unavailable",
        "certificate_required",
        "certificate_expired",
        "certificate_invalid",
        "certificate_mismatch",
        "stub_died",
        "session_broken",
        "node_lost",
        "node_timeout",
        "node_unreachable",
        "protocol_error",
        "artifact_corrupt",
        "not_assigned",
        "unavailable",
        "deadline",
        # The node's or its operator's doing: another attempt, or another node, may do.
        "out_of_memory",
        "load_timeout",
        # The second scanner broke or was too slow: a busy node, perhaps.
        "second_opinion_failed",
        "sandbox_unsupported",
        # Another node may have the sandbox that the version demands.
        "landlock_required",
        "sandbox_incomplete",
        "sandbox_refused",
        "loader_not_allowed",
        "evidence_insufficient",
        "node_revoked",
        "internal_error",
    }
)

State = Replica.State


@dataclass(frozen=True, slots=True)
class Trouble:
    """What stands in the way of going on with the present replica."""

    line: str
    reason_code: str
    is_final: bool


def find_replica(version: ModelVersion) -> Replica | None:
    """The scan replica that is in use."""
    return _list_replicas(version).filter(wanted=True).select_related("node").first()


def count_attempts(version: ModelVersion) -> int:
    """How many replicas were tried so far."""
    return _list_replicas(version).count()


def place_replica(version: ModelVersion) -> Replica | None:
    """Put a new replica on the best live node; None if no node is live."""
    tried = set(_list_replicas(version).values_list("node_id", flat=True))
    chosen = deployment.find_nodes(count=1, avoided=tried)
    if not chosen:
        return None
    return Replica.objects.create(version=version, node=chosen[0], purpose=Replica.Purpose.SCAN)


def find_trouble(replica: Replica, work: ReplicaWork | None = None) -> Trouble | None:
    """Whether this replica, or its work, will come to nothing.

    A failure that is the model's own is final; a failure of ours is, once all attempts are used up.
    """
    code, line = _find_failure(replica, work, utc_now())
    if not code:
        return None
    is_ours = code in INFRASTRUCTURE_CODES
    is_final = not is_ours or count_attempts(replica.version) >= ATTEMPTS_MAX
    return Trouble(line, code, is_final)


def _find_failure(replica: Replica, work: ReplicaWork | None, now: datetime) -> tuple[str, str]:
    where = f"on node {replica.node.name}"
    if work is not None and work.state == ReplicaWork.State.FAILED:
        said = str(work.result.get("detail", ""))
        return work.reason_code, said or f"The {work.kind} failed {where}."
    if replica.state == State.FAILED:
        return replica.reason_code, replica.detail or f"The replica failed {where}."
    if replica.state == State.LOST:
        return NODE_UNAVAILABLE, f"Node {replica.node.name} stopped reporting."
    if replica.state != State.READY and now > replica.changed_at + STUCK_AFTER:
        minutes = STUCK_AFTER // timedelta(minutes=1)
        return NODE_UNAVAILABLE, f"Nothing has moved {where} for {minutes} minutes."
    if work is not None and work.state == ReplicaWork.State.WAITING:
        limit = WORK_TIME_LIMITS[work.kind]
        if now > work.created_at + limit:
            return NODE_UNAVAILABLE, f"The {work.kind} was not over after {limit} {where}."
    return "", ""


def release(version: ModelVersion) -> None:
    """Unload the version's scan replicas."""
    deployment.release_replicas(_list_replicas(version))


def _list_replicas(version: ModelVersion) -> QuerySet[Replica]:
    return Replica.objects.filter(version=version, purpose=Replica.Purpose.SCAN).order_by("pk")
