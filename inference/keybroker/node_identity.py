"""Who is a node: joining with a one-time token, and certificates that are renewed.

The broker itself decides who may ever ask for a key. Tokens are made by the schema's owner
and used up here; the web can neither make one nor write an identity. What the web holds of
a node (`inference_node`) can only take a right away: a node that is revoked there is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import class_row

from inference.errors import CertificateExpiredError, JoinTokenInvalidError, NodeRevokedError
from inference.keybroker import queries
from inference.keybroker.errors import NonceReplayedError, SignatureInvalidError
from inference.keybroker.node_ca import NodeAuthority, read_request
from inference.node_certificate import RENEWAL_GRACE
from marketplace.core import keys
from marketplace.core.clock import utc_now
from marketplace.core.errors import InvalidInputError
from marketplace.core.ids import new_id
from strongroom.errors import StrongroomError
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64, encode_base64

NAME_LENGTH_MAX = 63


@dataclass(frozen=True, slots=True)
class IdentityRow:
    """A node that joined; revoked here or by the web."""

    node_id: UUID
    name: str
    public_key: str
    certificate_expires_at: datetime
    revoked: bool


@dataclass(frozen=True, slots=True)
class _TokenRow:
    id: int
    created_at: datetime
    node_id: UUID | None
    is_used: bool


async def join(
    connection: AsyncConnection, authority: NodeAuthority, body: dict[str, Any]
) -> dict[str, str]:
    """Make a node of whoever holds a join token, and certify its key.

    A node of the same name is replaced. The same key may repeat the call with the same token,
    in case the answer was lost, and is the same node again.

    Raises:
        JoinTokenInvalidError: Unknown, expired, used by another key, for another name, or made
            before a node of this name was revoked.
        InvalidInputError: The request is not in its form.
    """
    token_text, name = body.get("join_token"), body.get("name")
    public_key = read_request(body.get("csr"))
    if not isinstance(token_text, str) or not isinstance(name, str) or "\0" in name:
        raise InvalidInputError("join_token and name must be texts.")
    if len(name) > NAME_LENGTH_MAX or not keys.is_well_formed(token_text):
        raise JoinTokenInvalidError
    token = await _lock_token(connection, keys.digest(token_text), name)
    if token is None:
        raise JoinTokenInvalidError
    if token.is_used:
        node_id = await _find_repeated(connection, token, encode_base64(public_key))
    else:
        node_id = await _admit(connection, token, name, encode_base64(public_key))
    return await _certify(connection, authority, node_id, name, public_key)


async def renew(
    connection: AsyncConnection, authority: NodeAuthority, body: dict[str, Any], node_id: UUID
) -> dict[str, str]:
    """A new certificate for the same key, also for some days after the last one's end.

    Raises:
        SignatureInvalidError: The request is not signed by a node that joined here.
        NodeRevokedError: It is not one any more.
        CertificateExpiredError: Too long ago: it has to join anew.
        NonceReplayedError: The nonce is not a fresh one.
    """
    identity = await check_signature(connection, node_id, body, signature.NODE_RENEWAL_TYPE)
    if utc_now() > identity.certificate_expires_at + RENEWAL_GRACE:
        raise CertificateExpiredError("The certificate ended too long ago. Join with a new token.")
    await use_nonce(connection, node_id, body)
    public_key = decode_base64(identity.public_key)
    return await _certify(connection, authority, node_id, identity.name, public_key)


async def check_signature(
    connection: AsyncConnection, node_id: UUID, body: dict[str, Any], kind: str
) -> IdentityRow:
    """The request is signed by this node, which is not revoked; returns what is known of it."""
    identity = await find_identity(connection, node_id)
    if identity is None:
        raise SignatureInvalidError
    try:
        signature.verify(
            decode_base64(identity.public_key),
            kind,
            signature.node_request_payload(body),
            decode_base64(body.get("signature")),
        )
    except StrongroomError:
        raise SignatureInvalidError from None
    if identity.revoked:
        # What the web took away once, it cannot give back.
        await connection.execute(
            """UPDATE inference_nodeidentity SET revoked_at = clock_timestamp()
               WHERE node_id = %s AND revoked_at IS NULL""",
            [node_id],
        )
        raise NodeRevokedError
    return identity


async def use_nonce(connection: AsyncConnection, node_id: UUID, body: dict[str, Any]) -> None:
    """The request was never sent before."""
    nonce = body.get("nonce")
    if not isinstance(nonce, str) or not await queries.use_challenge(
        connection, nonce=nonce, node_id=node_id
    ):
        raise NonceReplayedError


async def find_identity(connection: AsyncConnection, node_id: UUID) -> IdentityRow | None:
    """A node that joined, revoked or not."""
    async with connection.cursor(row_factory=class_row(IdentityRow)) as cursor:
        await cursor.execute(
            """
            SELECT i.node_id, i.name, i.public_key, i.certificate_expires_at,
                i.revoked_at IS NOT NULL OR n.revoked_at IS NOT NULL AS revoked
            FROM inference_nodeidentity i LEFT JOIN inference_node n ON n.id = i.node_id
            WHERE i.node_id = %s
            """,
            [node_id],
        )
        return await cursor.fetchone()


async def revoke(connection: AsyncConnection, name: str) -> int:
    """Put the node of this name out for good; returns how many there were."""
    cursor = await connection.execute(
        """UPDATE inference_nodeidentity SET revoked_at = clock_timestamp()
           WHERE name = %s AND revoked_at IS NULL""",
        [name],
    )
    return cursor.rowcount


async def _lock_token(connection: AsyncConnection, digest: bytes, name: str) -> _TokenRow | None:
    async with connection.cursor(row_factory=class_row(_TokenRow)) as cursor:
        await cursor.execute(
            """
            SELECT id, created_at, node_id, used_at IS NOT NULL AS is_used
            FROM inference_nodejointoken
            WHERE digest = %s AND name = %s AND expires_at > clock_timestamp() FOR UPDATE
            """,
            [digest, name],
        )
        return await cursor.fetchone()


async def _find_repeated(connection: AsyncConnection, token: _TokenRow, public_key: str) -> UUID:
    """The node that used this token, if it is the same key that comes again."""
    identity = await find_identity(connection, token.node_id) if token.node_id else None
    if identity is None or identity.revoked or identity.public_key != public_key:
        raise JoinTokenInvalidError
    return identity.node_id


async def _admit(connection: AsyncConnection, token: _TokenRow, name: str, public_key: str) -> UUID:
    """Use the token up: from now on its name is that of a new node."""
    # Two tokens for one name are used one after the other.
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [name])
    cursor = await connection.execute(
        """
        SELECT 1 FROM inference_nodeidentity WHERE name = %(name)s AND revoked_at >= %(since)s
        UNION ALL SELECT 1 FROM inference_node WHERE name = %(name)s AND revoked_at >= %(since)s
        """,
        {"name": name, "since": token.created_at},
    )
    if await cursor.fetchone() is not None:
        # Also one that was made for a revoked node and lies unused on its disk.
        raise JoinTokenInvalidError
    await revoke(connection, name)
    node_id = new_id()
    await connection.execute(
        """
        INSERT INTO inference_nodeidentity (node_id, name, public_key, serial,
            certificate_expires_at, joined_at)
        VALUES (%s, %s, %s, '', clock_timestamp(), clock_timestamp())
        """,
        [node_id, name, public_key],
    )
    await connection.execute(
        """UPDATE inference_nodejointoken SET used_at = clock_timestamp(), node_id = %s
           WHERE id = %s""",
        [node_id, token.id],
    )
    return node_id


async def _certify(
    connection: AsyncConnection,
    authority: NodeAuthority,
    node_id: UUID,
    name: str,
    public_key: bytes,
) -> dict[str, str]:
    certificate, serial, expires_at = authority.issue(
        node_id=node_id, name=name, public_key=public_key, now=utc_now().replace(microsecond=0)
    )
    await connection.execute(
        """UPDATE inference_nodeidentity SET serial = %s, certificate_expires_at = %s
           WHERE node_id = %s""",
        [serial, expires_at, node_id],
    )
    return {"node_id": str(node_id), "certificate": certificate, "ca": authority.certificate}
