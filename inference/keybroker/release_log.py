"""Write the release log: a chain of signed entries per version.

Form and check of the chain are `strongroom.sealing.release_log`, which creators run on an
export without trusting us. Here is what may append to it: this process alone, one entry of a
version at a time.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from psycopg import AsyncConnection

from inference.keybroker import queries
from inference.keybroker.queries import EndedLeaseRow
from marketplace.core.errors import NotFoundError
from strongroom.sealing import release_log
from strongroom.sealing.canonical import encode_base64

logger = logging.getLogger(__name__)

ALARM_WINDOW_S = 3600


class Signer(Protocol):
    """Signs as the platform."""

    @property
    def kid(self) -> str:
        """Which of the platform's keys signs now."""

    def sign(self, payload_type: str, payload: bytes) -> bytes:
        """An Ed25519 signature over DSSE's encoding."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is written of one event; `artifact_id` is None where no version is concerned."""

    outcome: str
    artifact_id: UUID | None
    reason_code: str = ""
    node_id: UUID | None = None
    replica_id: UUID | None = None
    purpose: str = ""
    loader_digest: str = ""
    evidence: str = ""
    lease_id: UUID | None = None
    lease_expires_at: datetime | None = None


async def append(connection: AsyncConnection, signer: Signer, entry: Entry) -> None:
    """Add an entry to its version's chain, in the caller's transaction.

    The chain stays locked until then: each hash needs the one before it.
    """
    chain = str(entry.artifact_id or release_log.NOBODY)
    await queries.lock_chain(connection, chain)
    head = await queries.find_chain_head(connection, entry.artifact_id)
    members: dict[str, Any] = {
        "seq": head.seq + 1,
        "at": head.now,
        "outcome": entry.outcome,
        "reason_code": entry.reason_code,
        "node_id": entry.node_id,
        "node_name": await queries.find_node_name(connection, entry.node_id),
        "replica_id": entry.replica_id,
        "purpose": entry.purpose,
        "loader_digest": entry.loader_digest,
        "evidence": entry.evidence,
        "lease_id": entry.lease_id,
        "lease_expires_at": entry.lease_expires_at,
    }
    previous = bytes.fromhex(head.hash) if head.hash else release_log.genesis(chain)
    digest = release_log.entry_hash(chain, release_log.describe(members), previous)
    signed = encode_base64(signer.sign(release_log.ENTRY_TYPE, digest))
    row = {**members, "artifact_id": entry.artifact_id, "hash": digest.hex()}
    await queries.insert_release(connection, {**row, "signature": signed, "kid": signer.kid})


async def checkpoint(
    connection: AsyncConnection, signer: Signer, artifact_id: UUID
) -> dict[str, Any]:
    """The signed word on where a version's chain ends now.

    Raises:
        NotFoundError: Nothing was ever asked for this version.
    """
    await note_expired(connection, signer, artifact_id)
    await queries.lock_chain(connection, str(artifact_id))
    head = await queries.find_chain_head(connection, artifact_id)
    if not head.seq:
        raise NotFoundError("There is no entry for this version.")
    said = {
        "artifact_id": str(artifact_id),
        "seq": head.seq,
        "hash": head.hash,
        "at": release_log.to_text(head.now),
    }
    signed = signer.sign(release_log.CHECKPOINT_TYPE, release_log.checkpoint_payload(said))
    return {**said, "signature": encode_base64(signed), "kid": signer.kid}


async def note_expired(connection: AsyncConnection, signer: Signer, artifact_id: UUID) -> None:
    """Write down the ends of leases that ran out without a word of their node."""
    for lease in await queries.end_expired_leases(connection, artifact_id=artifact_id):
        await note_end(connection, signer, lease, reason_code="lease_expired")


async def note_end(
    connection: AsyncConnection, signer: Signer, lease: EndedLeaseRow, *, reason_code: str
) -> None:
    """Write down that a lease has ended, and why."""
    entry = Entry(
        outcome="ended",
        reason_code=reason_code,
        artifact_id=lease.artifact_id,
        node_id=lease.node_id,
        replica_id=lease.replica_id,
        purpose=lease.purpose,
        lease_id=lease.id,
        lease_expires_at=lease.ended_at,
    )
    await append(connection, signer, entry)


async def watch_rate(
    connection: AsyncConnection, signer: Signer, entry: Entry, *, per_hour_max: int
) -> None:
    """Raise an alarm, once an hour, where a version's key is asked for unusually often.

    A stolen certificate or a node that starts over and over shows itself here first. An alarm
    is an entry of the chain and a warning in the log; it stops nobody.
    """
    counted = await queries.count_requests(
        connection, artifact_id=entry.artifact_id, window_s=ALARM_WINDOW_S
    )
    if counted.requests <= per_hour_max or counted.alarms:
        return
    logger.warning(
        "alarm: version %s was asked for %s times in an hour",
        entry.artifact_id,
        counted.requests,
    )
    alarm = Entry(
        outcome="alarm",
        reason_code="release_rate",
        artifact_id=entry.artifact_id,
        node_id=entry.node_id,
        replica_id=entry.replica_id,
        purpose=entry.purpose,
    )
    await append(connection, signer, alarm)
