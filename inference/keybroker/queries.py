"""The broker's statements: small, typed, in the role `strongroom_keybroker`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import class_row, scalar_row


@dataclass(frozen=True, slots=True)
class UploadKeyRow:
    """A key pair made for one upload; the private half is sealed under `kek_ref`."""

    upload_id: UUID
    artifact_id: UUID
    model_id: UUID
    kid: str
    suite: str
    public_key: str
    kek_ref: str
    sealed_private_key: bytes
    signature: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """What the desired state says of a replica, and the state of its version."""

    node_id: UUID
    version_id: UUID
    purpose: str
    wanted: bool
    version_state: str


@dataclass(frozen=True, slots=True)
class NodeRow:
    """An enrolled node."""

    public_key: str
    revoked: bool


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """A lease that was given."""

    node_id: UUID
    replica_id: UUID
    artifact_id: UUID
    purpose: str
    is_live: bool


UPLOAD_KEY_COLUMNS = """upload_id, artifact_id, model_id, kid, suite, public_key, kek_ref,
    sealed_private_key, signature, expires_at"""


async def find_upload_key(connection: AsyncConnection, *, artifact_id: UUID) -> UploadKeyRow | None:
    """The key pair of an artifact's upload."""
    async with connection.cursor(row_factory=class_row(UploadKeyRow)) as cursor:
        await cursor.execute(
            f"SELECT {UPLOAD_KEY_COLUMNS} FROM inference_uploadkey WHERE artifact_id = %s",  # noqa: S608
            [artifact_id],
        )
        return await cursor.fetchone()


async def insert_upload_key(
    connection: AsyncConnection, row: UploadKeyRow, *, account_id: UUID
) -> None:
    """Store a new key pair; a concurrent twin loses silently and is read afterwards."""
    await connection.execute(
        """
        INSERT INTO inference_uploadkey (upload_id, artifact_id, account_id, model_id, kid,
            suite, public_key, kek_ref, sealed_private_key, signature, expires_at, created_at)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, clock_timestamp())
        ON CONFLICT DO NOTHING
        """,
        [
            row.upload_id,
            row.artifact_id,
            account_id,
            row.model_id,
            row.kid,
            row.suite,
            row.public_key,
            row.kek_ref,
            row.sealed_private_key,
            row.signature,
            row.expires_at,
        ],
    )


async def find_platform_wrap(
    connection: AsyncConnection, *, artifact_id: UUID
) -> tuple[str, str, str] | None:
    """Kid, suite and blob (base64) of the data key sealed to the platform."""
    cursor = await connection.execute(
        """SELECT kid, suite, blob FROM inference_wrappedkey
           WHERE version_id = %s AND recipient = 'platform'""",
        [artifact_id],
    )
    row = await cursor.fetchone()
    return (row[0], row[1], row[2]) if row else None


async def find_manifest(connection: AsyncConnection, *, artifact_id: UUID) -> str | None:
    """The canonical manifest of an artifact."""
    async with connection.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute(
            "SELECT manifest FROM inference_artifact WHERE version_id = %s", [artifact_id]
        )
        return await cursor.fetchone()


async def find_node(connection: AsyncConnection, node_id: UUID) -> NodeRow | None:
    """An enrolled node, revoked or not."""
    async with connection.cursor(row_factory=class_row(NodeRow)) as cursor:
        await cursor.execute(
            """SELECT public_key, revoked_at IS NOT NULL AS revoked
               FROM inference_node WHERE id = %s""",
            [node_id],
        )
        return await cursor.fetchone()


async def find_replica(connection: AsyncConnection, replica_id: UUID) -> ReplicaRow | None:
    """The desired state of a replica."""
    async with connection.cursor(row_factory=class_row(ReplicaRow)) as cursor:
        await cursor.execute(
            """
            SELECT r.node_id, r.version_id, r.purpose, r.wanted, v.state AS version_state
            FROM inference_replica r JOIN marketplace_modelversion v ON v.id = r.version_id
            WHERE r.id = %s
            """,
            [replica_id],
        )
        return await cursor.fetchone()


async def insert_challenge(
    connection: AsyncConnection, *, nonce: str, node_id: UUID, ttl_s: int
) -> datetime:
    """Store a nonce, and drop those that are long expired. Returns its expiry."""
    await connection.execute(
        "DELETE FROM inference_leasechallenge"
        " WHERE expires_at < clock_timestamp() - interval '1 hour'"
    )
    cursor = await connection.execute(
        """
        INSERT INTO inference_leasechallenge (nonce, node_id, expires_at)
        VALUES (%s, %s, clock_timestamp() + make_interval(secs => %s)) RETURNING expires_at
        """,
        [nonce, node_id, ttl_s],
    )
    row = await cursor.fetchone()
    assert row is not None
    return row[0]


async def use_challenge(connection: AsyncConnection, *, nonce: str, node_id: UUID) -> bool:
    """Use up a nonce; false if it is unknown, used, expired or another node's."""
    cursor = await connection.execute(
        """
        UPDATE inference_leasechallenge SET used_at = clock_timestamp()
        WHERE nonce = %s AND node_id = %s AND used_at IS NULL
            AND expires_at > clock_timestamp()
        """,
        [nonce, node_id],
    )
    return cursor.rowcount == 1


async def insert_lease(
    connection: AsyncConnection,
    *,
    lease_id: UUID,
    node_id: UUID,
    replica_id: UUID,
    artifact_id: UUID,
    purpose: str,
    ttl_s: int,
) -> datetime:
    """Store a lease; returns its expiry."""
    cursor = await connection.execute(
        """
        INSERT INTO inference_lease
            (id, node_id, replica_id, artifact_id, purpose, issued_at, expires_at)
        VALUES (%s, %s, %s, %s, %s, clock_timestamp(),
                date_trunc('second', clock_timestamp()) + make_interval(secs => %s))
        RETURNING expires_at
        """,
        [lease_id, node_id, replica_id, artifact_id, purpose, ttl_s],
    )
    row = await cursor.fetchone()
    assert row is not None
    return row[0]


async def find_lease(connection: AsyncConnection, lease_id: UUID) -> LeaseRow | None:
    """A lease, and whether it is still live; the row is locked."""
    async with connection.cursor(row_factory=class_row(LeaseRow)) as cursor:
        await cursor.execute(
            """
            SELECT node_id, replica_id, artifact_id, purpose,
                ended_at IS NULL AND expires_at > clock_timestamp() AS is_live
            FROM inference_lease WHERE id = %s FOR UPDATE
            """,
            [lease_id],
        )
        return await cursor.fetchone()


async def extend_lease(connection: AsyncConnection, lease_id: UUID, *, ttl_s: int) -> datetime:
    """Move a lease's end; returns it."""
    cursor = await connection.execute(
        """
        UPDATE inference_lease SET expires_at =
            date_trunc('second', clock_timestamp()) + make_interval(secs => %s)
        WHERE id = %s RETURNING expires_at
        """,
        [ttl_s, lease_id],
    )
    row = await cursor.fetchone()
    assert row is not None
    return row[0]


async def end_lease(connection: AsyncConnection, lease_id: UUID) -> None:
    """Mark a lease as ended; repeating it changes nothing."""
    await connection.execute(
        """UPDATE inference_lease SET ended_at = clock_timestamp()
           WHERE id = %s AND ended_at IS NULL""",
        [lease_id],
    )


async def insert_release(
    connection: AsyncConnection,
    *,
    outcome: str,
    reason_code: str,
    node_id: UUID | None,
    replica_id: UUID | None,
    artifact_id: UUID | None,
    purpose: str,
    loader_digest: str,
    lease_id: UUID | None,
) -> None:
    """Write the release log."""
    await connection.execute(
        """
        INSERT INTO inference_keyrelease (at, outcome, reason_code, node_id, replica_id,
            artifact_id, purpose, loader_digest, lease_id)
        VALUES (clock_timestamp(), %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        [outcome, reason_code, node_id, replica_id, artifact_id, purpose, loader_digest, lease_id],
    )
