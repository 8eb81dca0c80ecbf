"""Read the release log of versions, as the key broker wrote it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import QuerySet

from inference.models import KeyRelease, Lease, Replica
from inference.selectors.node import ENDED_STATES
from marketplace.core.clock import utc_now
from strongroom.sealing import release_log


def list_entries(artifact_id: UUID | None) -> QuerySet[KeyRelease]:
    """The entries of a version's chain, the first one first; of nobody's for None."""
    return KeyRelease.objects.filter(artifact_id=artifact_id).exclude(seq=None).order_by("seq")


def describe_entry(entry: KeyRelease) -> dict[str, Any]:
    """An entry as it stands in an export: what was hashed, the hash and its signature."""
    members = {name: getattr(entry, name) for name in release_log.MEMBERS}
    return {
        **release_log.describe(members),
        "hash": entry.hash,
        "signature": entry.signature,
        "kid": entry.kid,
    }


def list_held_replicas(artifact_id: UUID) -> list[tuple[Replica, Lease | None]]:
    """Replicas of a version that are not over, each with the lease that it holds."""
    replicas = (
        Replica.objects.filter(version_id=artifact_id)
        .exclude(state__in=ENDED_STATES)
        .select_related("node")
        .order_by("created_at")
    )
    live = Lease.objects.filter(
        artifact_id=artifact_id, ended_at=None, expires_at__gt=utc_now()
    ).order_by("issued_at")
    by_replica = {lease.replica_id: lease for lease in live}
    return [(replica, by_replica.get(replica.pk)) for replica in replicas]


def find_first_break() -> tuple[UUID | None, int] | None:
    """The version and number of the first entry of any chain that is not as it was written.

    Signatures are for those who hold the platform's key; this is about the hashes.
    """
    chains = KeyRelease.objects.exclude(seq=None).values_list("artifact_id", flat=True)
    for artifact_id in chains.distinct().order_by("artifact_id"):
        chain = str(artifact_id or release_log.NOBODY)
        previous = release_log.genesis(chain)
        for number, entry in enumerate(list_entries(artifact_id).iterator(), start=1):
            try:
                previous = release_log.check_entry(chain, number, describe_entry(entry), previous)
            except release_log.ReleaseLogError:
                return artifact_id, number
    return None
