"""What a creator sees of a sealed version: who can open it, who holds it, what was demanded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from inference.models import Artifact, KeyRelease, Lease, Replica
from inference.selectors import release_log
from marketplace.core.describe import describe_policy
from marketplace.models import ModelVersion
from strongroom.errors import StrongroomError
from strongroom.sealing.manifest import Manifest
from strongroom.sealing.policy import Policy

EVIDENCE_WORDS = {
    "none-dev": "Nodes that show nothing of themselves are enough.",
    "tpm": "Only nodes whose TPM shows what was started on them.",
    "tdx+nvidia": "Only confidential machines with a confidential GPU.",
}


@dataclass(frozen=True, slots=True)
class HeldReplica:
    """A copy of the version on a node, and the lease under which its key was lent."""

    replica: Replica
    lease: Lease | None

    @property
    def confinement(self) -> str:
        """How the serving process is confined."""
        return describe_confinement(self.replica.report)

    @property
    def canary(self) -> str:
        """Whether its answers are right."""
        return describe_canary(self.replica.report)


@dataclass(frozen=True, slots=True)
class Custody:
    """A version's custody at a glance."""

    artifact: Artifact | None
    recipients: list[str]
    demands: list[str]
    held: list[HeldReplica]
    last_release: KeyRelease | None
    last_end: KeyRelease | None
    alarms: int

    @property
    def latest_lease_end(self) -> datetime | None:
        """When the last key that is lent out now is worth nothing, whatever happens."""
        ends = [one.lease.expires_at for one in self.held if one.lease is not None]
        return max(ends, default=None)


def describe_custody(version: ModelVersion) -> Custody:
    """Everything but the log itself, which is long."""
    artifact = Artifact.objects.filter(version=version).select_related("signing_key").first()
    entries = release_log.list_entries(version.pk)
    return Custody(
        artifact=artifact,
        recipients=sorted(version.wrapped_keys.values_list("recipient", flat=True)),
        demands=list_demands(artifact),
        held=[
            HeldReplica(replica, lease)
            for replica, lease in release_log.list_held_replicas(version.pk)
        ],
        last_release=entries.filter(outcome=KeyRelease.Outcome.RELEASED).last(),
        last_end=entries.filter(outcome=KeyRelease.Outcome.ENDED).last(),
        alarms=entries.filter(outcome=KeyRelease.Outcome.ALARM).count(),
    )


def list_demands(artifact: Artifact | None) -> list[str]:
    """The policy in the manifest, in words; empty where nothing is demanded."""
    try:
        policy = Manifest.parse(artifact.manifest).policy if artifact is not None else Policy()
    except StrongroomError:
        # Made by a platform of another age; the log below is still worth reading.
        return []
    demands = [EVIDENCE_WORDS[policy.evidence]] if policy.evidence else []
    if policy.sandbox:
        demands.append("Only where the kernel confines the serving process with Landlock.")
    shown = describe_policy(policy.to_json().get("output", {}))
    return [*demands, shown] if shown else demands


def describe_confinement(report: Mapping[str, Any]) -> str:
    """How the serving process is confined, from what its loader reported."""
    loaded = report.get("load")
    if not isinstance(loaded, dict) or not isinstance(loaded.get("sandbox"), dict):
        return ""
    sandbox = loaded["sandbox"]
    landlock = "Landlock and seccomp" if sandbox.get("landlock_abi") else "seccomp alone"
    if loaded.get("locked"):
        return f"{landlock}, memory locked"
    return f"{landlock}, memory not locked{' (this node has swap)' if loaded.get('swap') else ''}"


def describe_canary(report: Mapping[str, Any]) -> str:
    """When the replica last gave a known answer, from what its node reported."""
    canary = report.get("canary")
    if isinstance(canary, str):
        return canary
    if not isinstance(canary, dict) or not canary.get("asked"):
        return ""
    right = f"right {canary.get('right', 0)} of {canary['asked']} times"
    return right if canary.get("healthy", True) else f"{right}; no answer lately"
