"""Release a data key to a node: challenge, signed request, checks, lease.

The request is checked against the desired state in the database: a node gets the key of a
version only while the platform wants that very replica on that very node. The key is sealed
to an ephemeral key of the serving process, so that the node relays what it cannot open.

Every request, granted or not, and every end of a lease is an entry of the version's release log.

Source: IETF RATS passport model as in CoCo Trustee's request-challenge-attestation-response.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from inference.keybroker import evidence, node_identity, queries, release_log
from inference.keybroker.config import KeyBrokerConfig
from inference.keybroker.errors import (
    EvidenceInsufficientError,
    LeaseLostError,
    LoaderNotAllowedError,
    NotAssignedError,
    ShreddedError,
    VersionNotApprovedError,
)
from inference.keybroker.peer import Peer
from inference.keybroker.release_log import Entry
from inference.keybroker.upload_keys import UploadKeys, decode_public_key
from marketplace.core.errors import InvalidInputError, MarketplaceError, NotFoundError
from marketplace.core.ids import new_id
from strongroom.errors import StrongroomError
from strongroom.sealing import signature, wrap
from strongroom.sealing.canonical import encode_base64
from strongroom.sealing.manifest import Manifest

NONCE_TTL_S = 60
# Short enough that a withdrawn version is gone soon even from a node that hides.
LEASE_TTL_S = 600
# What a node is told is left of one that is new: its end is cut to whole seconds. A number, so
# that the clock of the node's machine is of no account.
TOLD_TTL_S = LEASE_TTL_S - 1
# Which state of a version allows which purpose.
STATES_BY_PURPOSE = {"scan": frozenset({"onboarding"}), "serve": frozenset({"approved"})}


async def challenge(connection: AsyncConnection, node_id: UUID) -> dict[str, str]:
    """A nonce for the next signed request of this node."""
    nonce = secrets.token_urlsafe(32)
    expires_at = await queries.insert_challenge(
        connection, nonce=nonce, node_id=node_id, ttl_s=NONCE_TTL_S
    )
    return {"nonce": nonce, "expires_at": expires_at.astimezone(UTC).isoformat()}


async def grant(
    connection: AsyncConnection,
    config: KeyBrokerConfig,
    keys: UploadKeys,
    body: dict[str, Any],
    peer: Peer,
) -> dict[str, Any]:
    """Check a request and release the key; a refusal is logged and raised.

    The caller commits in both cases: a refused request has used its nonce up too.
    """
    request = _Request(body)
    lease_id = new_id()
    try:
        ephemeral_key = await _check(connection, config, request, peer)
        dek = await keys.open_dek(connection, request.artifact_id)
        # Of a refusal that comes this late, nothing but the log's row may stay.
        async with connection.transaction():
            given = await _give(connection, request, lease_id, dek, ephemeral_key)
    except MarketplaceError as error:
        entry = request.entry("refused", reason_code=error.code)
        if not request.is_proven or not await queries.has_artifact(connection, request.artifact_id):
            # Nobody may fill a creator's log who is not a node, or for a version that is not.
            entry = replace(entry, artifact_id=None)
        await _write(connection, config, keys, entry)
        raise
    await release_log.note_expired(connection, await keys.signer(connection), request.artifact_id)
    entry = request.entry(
        "released",
        lease_id=lease_id,
        lease_expires_at=datetime.fromisoformat(given["expires_at"]),
    )
    await _write(connection, config, keys, entry)
    return given


async def _write(
    connection: AsyncConnection, config: KeyBrokerConfig, keys: UploadKeys, entry: Entry
) -> None:
    signer = await keys.signer(connection)
    await release_log.append(connection, signer, entry)
    await release_log.watch_rate(
        connection, signer, entry, per_hour_max=config.release_alarm_per_hour
    )


async def _give(
    connection: AsyncConnection,
    request: _Request,
    lease_id: UUID,
    dek: bytearray,
    ephemeral_key: bytes,
) -> dict[str, Any]:
    """Write the lease and seal the key to the serving process; the plain key is overwritten."""
    try:
        # Once more: the key store may have taken its time. From here on a shred waits for this
        # lease, and ends it.
        await _check_not_shredded(connection, request.artifact_id, lasting=True)
        expires_at = await queries.insert_lease(
            connection,
            lease_id=lease_id,
            node_id=request.node_id,
            replica_id=request.replica_id,
            artifact_id=request.artifact_id,
            purpose=request.purpose,
            ttl_s=LEASE_TTL_S,
        )
        info = wrap.lease_info(
            lease_id=str(lease_id),
            node_id=str(request.node_id),
            replica_id=str(request.replica_id),
            artifact_id=str(request.artifact_id),
            expires_at=expires_at.astimezone(UTC).isoformat(),
        )
        sealed = wrap.seal(dek, ephemeral_key, info)
    except StrongroomError as error:
        raise InvalidInputError(f"ephemeral_public_key: {error.detail}") from None
    finally:
        dek[:] = bytes(len(dek))
    return {
        "lease_id": str(lease_id),
        "expires_at": info["expires_at"],
        "ttl_s": TOLD_TTL_S,
        "sealed_dek": encode_base64(sealed),
        "info": info,
    }


async def renew(
    connection: AsyncConnection,
    keys: UploadKeys,
    lease_id: UUID,
    body: dict[str, Any],
    peer: Peer,
) -> dict[str, Any]:
    """Move the end of a live lease, if the desired state still wants the replica there.

    Raises:
        LeaseLostError: It ended, or the replica is not wanted there any more: unload it.
        ShreddedError: The version's key was destroyed: unload it.
    """
    node_id = read_identifier(body, "node_id")
    await _check_signature(connection, node_id, body, peer)
    lease = await queries.find_lease(connection, lease_id)
    if lease is None or lease.node_id != node_id:
        raise LeaseLostError
    await _check_not_shredded(connection, lease.artifact_id)
    if not lease.is_live:
        raise LeaseLostError
    try:
        await _check_assignment(
            connection, node_id, lease.replica_id, lease.artifact_id, lease.purpose
        )
    except MarketplaceError as error:
        await _end(connection, keys, lease_id, reason_code=error.code)
        raise LeaseLostError(error.detail) from error
    expires_at = await queries.extend_lease(connection, lease_id, ttl_s=LEASE_TTL_S)
    return {"expires_at": expires_at.astimezone(UTC).isoformat(), "ttl_s": TOLD_TTL_S}


async def release(
    connection: AsyncConnection,
    keys: UploadKeys,
    lease_id: UUID,
    body: dict[str, Any],
    peer: Peer,
) -> dict[str, str]:
    """End a lease that the node does not need any more; repeating it changes nothing.

    Raises:
        LeaseLostError: There is none of this id, or it is another node's.
    """
    node_id = read_identifier(body, "node_id")
    await _check_signature(connection, node_id, body, peer)
    lease = await queries.find_lease(connection, lease_id)
    if lease is None or lease.node_id != node_id:
        raise LeaseLostError
    if lease.is_live:
        await _end(connection, keys, lease_id, reason_code="given_back")
    return {}


async def _end(
    connection: AsyncConnection,
    keys: UploadKeys,
    lease_id: UUID,
    *,
    reason_code: str,
) -> None:
    """End a lease, and say so in its version's log."""
    ended = await queries.end_lease(connection, lease_id)
    signer = await keys.signer(connection)
    await release_log.note_end(connection, signer, ended, reason_code=reason_code)


async def _check(
    connection: AsyncConnection, config: KeyBrokerConfig, request: _Request, peer: Peer
) -> bytes:
    """All conditions of a release; returns the raw ephemeral public key."""
    await _check_signature(connection, request.node_id, request.body, peer)
    request.is_proven = True
    shown = evidence.check(request.body, config)
    request.evidence = shown.name
    if request.loader_digest not in config.loader_digests:
        raise LoaderNotAllowedError
    await _check_not_shredded(connection, request.artifact_id)
    await _check_assignment(
        connection, request.node_id, request.replica_id, request.artifact_id, request.purpose
    )
    await _check_policy(connection, request.artifact_id, shown)
    try:
        return decode_public_key(request.body.get("ephemeral_public_key"))
    except StrongroomError as error:
        raise InvalidInputError(f"ephemeral_public_key: {error.detail}") from None


async def _check_policy(
    connection: AsyncConnection, artifact_id: UUID, shown: evidence.Shown
) -> None:
    """The node has shown as much as the version's creator demands."""
    text = await queries.find_manifest(connection, artifact_id=artifact_id)
    if text is None:
        raise NotFoundError("There is no such artifact.")
    demanded = Manifest.parse(text).policy.evidence
    if demanded is not None and not shown.is_at_least(demanded):
        detail = f"The version's creator demands {demanded}; the node has shown {shown.kind}."
        raise EvidenceInsufficientError(detail)


async def _check_signature(
    connection: AsyncConnection, node_id: UUID, body: dict[str, Any], peer: Peer
) -> None:
    """The request is the node's own, over its own connection, and was never sent before."""
    identity = await node_identity.check_signature(
        connection, node_id, body, signature.LEASE_REQUEST_TYPE
    )
    peer.check(node_id, identity.public_key)
    await node_identity.use_nonce(connection, node_id, body)


async def _check_assignment(
    connection: AsyncConnection, node_id: UUID, replica_id: UUID, artifact_id: UUID, purpose: str
) -> None:
    replica = await queries.find_replica(connection, replica_id)
    if replica is None or (replica.node_id, replica.version_id, replica.purpose) != (
        node_id,
        artifact_id,
        purpose,
    ):
        raise NotAssignedError
    # Before `wanted`, which follows from both: this is the reason of it.
    if replica.version_state not in STATES_BY_PURPOSE[purpose]:
        raise VersionNotApprovedError
    if replica.is_suspended:
        raise VersionNotApprovedError("The model or its account is suspended.")
    if not replica.wanted:
        raise NotAssignedError


async def _check_not_shredded(
    connection: AsyncConnection, artifact_id: UUID, *, lasting: bool = False
) -> None:
    if await queries.is_shredded(connection, artifact_id, lasting=lasting):
        raise ShreddedError


class _Request:
    """A request for a lease, its members checked for form only."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.node_id = read_identifier(body, "node_id")
        self.replica_id = read_identifier(body, "replica_id")
        self.artifact_id = read_identifier(body, "artifact_id")
        self.purpose = body.get("purpose", "")
        if self.purpose not in STATES_BY_PURPOSE:
            raise InvalidInputError("purpose must be scan or serve.")
        # Cut to what the log keeps; another length is not allow-listed anyway.
        self.loader_digest = str(body.get("loader_digest", ""))[:64]
        # Whether it is the node's own; until then its members are anybody's words.
        self.is_proven = False
        self.evidence = ""

    def entry(
        self,
        outcome: str,
        *,
        reason_code: str = "",
        lease_id: UUID | None = None,
        lease_expires_at: datetime | None = None,
    ) -> Entry:
        """What the release log says of it."""
        return Entry(
            outcome=outcome,
            artifact_id=self.artifact_id,
            reason_code=reason_code,
            node_id=self.node_id,
            replica_id=self.replica_id,
            purpose=self.purpose,
            loader_digest=self.loader_digest,
            evidence=self.evidence,
            lease_id=lease_id,
            lease_expires_at=lease_expires_at,
        )


def read_identifier(body: dict[str, Any], name: str) -> UUID:
    """A member that must be a UUID; raises InvalidInputError."""
    try:
        return UUID(body[name])
    except (KeyError, ValueError, TypeError, AttributeError):
        raise InvalidInputError(f"{name} must be a UUID.") from None
