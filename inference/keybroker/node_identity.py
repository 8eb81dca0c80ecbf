"""Who is a node: joining with a token, and certificates that are renewed.

The broker itself decides who may ever ask for a key. Tokens are made by the schema's owner
and used up here; the web can neither make one nor write an identity. What the web holds of
a node (`inference_node`) can only take a right away: a node that is revoked there is refused.

Every machine of a pool holds the pool's token, so that to put one of them out is to put the
token out: it, and every one of that pool made before, lets nobody in any more.
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
from inference.node_certificate import NODE_NAME, RENEWAL_GRACE
from marketplace.core import keys
from marketplace.core.clock import utc_now
from marketplace.core.errors import InvalidInputError
from marketplace.core.ids import new_id
from strongroom.errors import StrongroomError
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64, encode_base64


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
    is_for_pool: bool
    pool: str
    is_used_up: bool


# A node of this name was revoked, or replaced, after the token was made: also one that was made
# for it and lies unused on its disk.
_NAME_IS_CLOSED = """
    SELECT 1 FROM inference_nodeidentity WHERE name = %(name)s AND revoked_at >= %(since)s
    UNION ALL SELECT 1 FROM inference_node WHERE name = %(name)s AND revoked_at >= %(since)s
"""
# A machine that held a token of this pool was put out after this one was made (what only lost
# its name to the next of its kind was not), or the name is that of a node of another kind.
_POOL_IS_CLOSED = """
    SELECT 1
    FROM inference_nodeidentity i
        LEFT JOIN inference_nodejointoken t ON t.id = i.join_token_id
        LEFT JOIN inference_node n ON n.id = i.node_id
    WHERE i.pool = %(pool)s AND t.name = '' AND i.replaced_at IS NULL
        AND (i.revoked_at >= %(since)s OR n.revoked_at >= %(since)s)
    UNION ALL
    SELECT 1
    FROM inference_nodeidentity i LEFT JOIN inference_nodejointoken t ON t.id = i.join_token_id
    WHERE i.name = %(name)s AND i.revoked_at IS NULL
        AND (t.name = '' AND t.pool = %(pool)s) IS NOT TRUE
"""


async def join(
    connection: AsyncConnection, authority: NodeAuthority, body: dict[str, Any]
) -> dict[str, str]:
    """Make a node of whoever holds a join token, and certify its key.

    A node of the same name is replaced; by a pool's token only one that joined with such a
    token of the same pool. The same key may repeat the call with the same token, in case the
    answer was lost, and is the same node again.

    Raises:
        JoinTokenInvalidError: Unknown, expired, revoked, used up, for another name or pool, made
            before a node of this name or (of a pool's token) of this pool was revoked.
        InvalidInputError: The request is not in its form.
    """
    public_key = read_request(body.get("csr"))
    token_text, name = _read_text(body, "join_token"), _read_text(body, "name")
    pool = _read_text(body, "pool", "")
    if not NODE_NAME.fullmatch(name) or not keys.is_well_formed(token_text):
        raise JoinTokenInvalidError
    token = await _lock_token(connection, keys.digest(token_text), name)
    if token is None or pool not in ("", token.pool):
        raise JoinTokenInvalidError
    encoded_key = encode_base64(public_key)
    node_id = await _find_repeated(connection, token, name, encoded_key)
    if node_id is None:
        node_id = await _admit(connection, token, name, encoded_key)
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


def _read_text(body: dict[str, Any], member: str, default: str | None = None) -> str:
    text = body.get(member, default)
    if not isinstance(text, str) or "\0" in text:
        raise InvalidInputError(f"{member} must be a text.")
    return text


async def _lock_token(connection: AsyncConnection, digest: bytes, name: str) -> _TokenRow | None:
    async with connection.cursor(row_factory=class_row(_TokenRow)) as cursor:
        await cursor.execute(
            """
            SELECT id, created_at, name = '' AS is_for_pool, pool,
                CASE name WHEN '' THEN use_count >= use_count_max ELSE used_at IS NOT NULL END
                    AS is_used_up
            FROM inference_nodejointoken
            WHERE digest = %s AND name IN (%s, '') AND expires_at > clock_timestamp()
                AND revoked_at IS NULL
            FOR UPDATE
            """,
            [digest, name],
        )
        return await cursor.fetchone()


async def _find_repeated(
    connection: AsyncConnection, token: _TokenRow, name: str, public_key: str
) -> UUID | None:
    """The node that this key became with this token, under this name.

    Raises:
        JoinTokenInvalidError: That one is revoked.
    """
    cursor = await connection.execute(
        """SELECT node_id FROM inference_nodeidentity
           WHERE join_token_id = %s AND name = %s AND public_key = %s""",
        [token.id, name, public_key],
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    identity = await find_identity(connection, row[0])
    if identity is None or identity.revoked:
        raise JoinTokenInvalidError
    return identity.node_id


async def _admit(connection: AsyncConnection, token: _TokenRow, name: str, public_key: str) -> UUID:
    """Use the token: from now on the name is that of a new node."""
    # Two tokens for one name are used one after the other.
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [name])
    is_closed = _POOL_IS_CLOSED if token.is_for_pool else _NAME_IS_CLOSED
    arguments = {"name": name, "pool": token.pool, "since": token.created_at}
    cursor = await connection.execute(is_closed, arguments)
    if token.is_used_up or await cursor.fetchone() is not None:
        raise JoinTokenInvalidError
    node_id = new_id()
    await _replace(connection, name)
    await connection.execute(
        """
        INSERT INTO inference_nodeidentity (node_id, name, public_key, serial,
            certificate_expires_at, joined_at, pool, join_token_id)
        VALUES (%s, %s, %s, '', clock_timestamp(), clock_timestamp(), %s, %s)
        """,
        [node_id, name, public_key, token.pool, token.id],
    )
    await connection.execute(
        """UPDATE inference_nodejointoken
           SET used_at = clock_timestamp(), node_id = %s, use_count = use_count + 1
           WHERE id = %s""",
        [node_id, token.id],
    )
    return node_id


async def _replace(connection: AsyncConnection, name: str) -> None:
    """Whoever has the name loses it to one that joins."""
    await connection.execute(
        """UPDATE inference_nodeidentity
           SET revoked_at = statement_timestamp(), replaced_at = statement_timestamp()
           WHERE name = %s AND revoked_at IS NULL""",
        [name],
    )


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
