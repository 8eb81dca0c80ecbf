"""Release a data key to a node: challenge, signed request, checks, lease.

The request is checked against the desired state in the database: a node gets the key of a
version only while the platform wants that very replica on that very node. The key is sealed
to an ephemeral key of the serving process, so that the node relays what it cannot open.

Every request, granted or not, leaves a row in the release log.

Source: IETF RATS passport model as in CoCo Trustee's request-challenge-attestation-response.
"""

from __future__ import annotations

import secrets
from datetime import UTC
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from inference.keybroker import queries
from inference.keybroker.config import KeyBrokerConfig
from inference.keybroker.errors import (
    EvidenceInsufficientError,
    LeaseLostError,
    LoaderNotAllowedError,
    NodeRevokedError,
    NonceReplayedError,
    NotAssignedError,
    SignatureInvalidError,
    VersionNotApprovedError,
)
from inference.keybroker.upload_keys import UploadKeys, decode_public_key
from marketplace.core.errors import InvalidInputError, MarketplaceError
from marketplace.core.ids import new_id
from strongroom.errors import StrongroomError
from strongroom.sealing import signature, wrap
from strongroom.sealing.canonical import decode_base64, encode_base64

NONCE_TTL_S = 60
# Short enough that a withdrawn version is gone soon even from a node that hides.
LEASE_TTL_S = 600
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
    connection: AsyncConnection, config: KeyBrokerConfig, keys: UploadKeys, body: dict[str, Any]
) -> dict[str, Any]:
    """Check a request and release the key; a refusal is logged and raised.

    The caller commits in both cases: a refused request has used its nonce up too.
    """
    request = _Request(body)
    lease_id = new_id()
    try:
        ephemeral_key = await _check(connection, config, request)
        dek = await keys.open_dek(connection, request.artifact_id)
        # Of a refusal that comes this late, nothing but the log's row may stay.
        async with connection.transaction():
            given = await _give(connection, request, lease_id, dek, ephemeral_key)
    except MarketplaceError as error:
        await request.log(connection, outcome="refused", reason_code=error.code, lease_id=None)
        raise
    await request.log(connection, outcome="released", reason_code="", lease_id=lease_id)
    return given


async def _give(
    connection: AsyncConnection,
    request: _Request,
    lease_id: UUID,
    dek: bytearray,
    ephemeral_key: bytes,
) -> dict[str, Any]:
    """Write the lease and seal the key to the serving process; the plain key is overwritten."""
    try:
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
        "sealed_dek": encode_base64(sealed),
        "info": info,
    }


async def renew(
    connection: AsyncConnection, lease_id: UUID, body: dict[str, Any]
) -> dict[str, str]:
    """Move the end of a live lease, if the desired state still wants the replica there.

    Raises:
        LeaseLostError: It ended, or the replica is not wanted there any more: unload it.
    """
    node_id = read_identifier(body, "node_id")
    await _check_signature(connection, node_id, body)
    lease = await queries.find_lease(connection, lease_id)
    if lease is None or lease.node_id != node_id or not lease.is_live:
        raise LeaseLostError
    try:
        await _check_assignment(
            connection, node_id, lease.replica_id, lease.artifact_id, lease.purpose
        )
    except MarketplaceError as error:
        await queries.end_lease(connection, lease_id)
        await queries.insert_release(
            connection,
            outcome="refused",
            reason_code=error.code,
            node_id=node_id,
            replica_id=lease.replica_id,
            artifact_id=lease.artifact_id,
            purpose=lease.purpose,
            loader_digest="",
            lease_id=lease_id,
        )
        raise LeaseLostError(error.detail) from error
    expires_at = await queries.extend_lease(connection, lease_id, ttl_s=LEASE_TTL_S)
    return {"expires_at": expires_at.astimezone(UTC).isoformat()}


async def release(
    connection: AsyncConnection, lease_id: UUID, body: dict[str, Any]
) -> dict[str, str]:
    """End a lease that the node does not need any more; repeating it changes nothing.

    Raises:
        LeaseLostError: There is none of this id, or it is another node's.
    """
    node_id = read_identifier(body, "node_id")
    await _check_signature(connection, node_id, body)
    lease = await queries.find_lease(connection, lease_id)
    if lease is None or lease.node_id != node_id:
        raise LeaseLostError
    await queries.end_lease(connection, lease_id)
    return {}


async def _check(connection: AsyncConnection, config: KeyBrokerConfig, request: _Request) -> bytes:
    """All conditions of a release; returns the raw ephemeral public key."""
    await _check_signature(connection, request.node_id, request.body)
    evidence = request.body.get("evidence")
    kind = evidence.get("type") if isinstance(evidence, dict) else None
    if kind not in config.evidence:
        raise EvidenceInsufficientError
    if request.loader_digest not in config.loader_digests:
        raise LoaderNotAllowedError
    await _check_assignment(
        connection, request.node_id, request.replica_id, request.artifact_id, request.purpose
    )
    try:
        return decode_public_key(request.body.get("ephemeral_public_key"))
    except StrongroomError as error:
        raise InvalidInputError(f"ephemeral_public_key: {error.detail}") from None


async def _check_signature(
    connection: AsyncConnection, node_id: UUID, body: dict[str, Any]
) -> None:
    """The request is the node's own and was never sent before."""
    node = await queries.find_node(connection, node_id)
    if node is None:
        raise SignatureInvalidError
    try:
        signature.verify(
            decode_base64(node.public_key),
            signature.LEASE_REQUEST_TYPE,
            signature.lease_request_payload(body),
            decode_base64(body.get("signature")),
        )
    except StrongroomError:
        raise SignatureInvalidError from None
    if node.revoked:
        raise NodeRevokedError
    nonce = body.get("nonce")
    if not isinstance(nonce, str) or not await queries.use_challenge(
        connection, nonce=nonce, node_id=node_id
    ):
        raise NonceReplayedError


async def _check_assignment(
    connection: AsyncConnection, node_id: UUID, replica_id: UUID, artifact_id: UUID, purpose: str
) -> None:
    replica = await queries.find_replica(connection, replica_id)
    if (
        replica is None
        or not replica.wanted
        or (replica.node_id, replica.version_id, replica.purpose) != (node_id, artifact_id, purpose)
    ):
        raise NotAssignedError
    if replica.version_state not in STATES_BY_PURPOSE[purpose]:
        raise VersionNotApprovedError


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

    async def log(
        self,
        connection: AsyncConnection,
        *,
        outcome: str,
        reason_code: str,
        lease_id: UUID | None,
    ) -> None:
        await queries.insert_release(
            connection,
            outcome=outcome,
            reason_code=reason_code,
            node_id=self.node_id,
            replica_id=self.replica_id,
            artifact_id=self.artifact_id,
            purpose=self.purpose,
            loader_digest=self.loader_digest,
            lease_id=lease_id,
        )


def read_identifier(body: dict[str, Any], name: str) -> UUID:
    """A member that must be a UUID; raises InvalidInputError."""
    try:
        return UUID(body[name])
    except (KeyError, ValueError, TypeError, AttributeError):
        raise InvalidInputError(f"{name} must be a UUID.") from None
