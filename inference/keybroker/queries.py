"""The broker's statements: small, typed, in the role `strongroom_keybroker`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import class_row, scalar_row
from psycopg.types.json import Jsonb


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
    # None once it was shredded.
    sealed_private_key: bytes | None
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
    # Whether its model or account may serve nothing at present.
    is_suspended: bool


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """A lease that was given."""

    node_id: UUID
    replica_id: UUID
    artifact_id: UUID
    purpose: str
    is_live: bool


@dataclass(frozen=True, slots=True)
class EndedLeaseRow:
    """A lease that has ended, and when."""

    id: UUID
    node_id: UUID
    replica_id: UUID
    artifact_id: UUID
    purpose: str
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class ChainHead:
    """Where a version's release log ends; `seq` 0 and no hash before the first entry."""

    seq: int
    hash: str
    now: datetime


@dataclass(frozen=True, slots=True)
class RequestCount:
    """How often a key was asked for lately, and how many alarms there were of it."""

    requests: int
    alarms: int


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


async def find_replica(connection: AsyncConnection, replica_id: UUID) -> ReplicaRow | None:
    """The desired state of a replica."""
    async with connection.cursor(row_factory=class_row(ReplicaRow)) as cursor:
        await cursor.execute(
            """
            SELECT r.node_id, r.version_id, r.purpose, r.wanted, v.state AS version_state,
                m.suspended_at IS NOT NULL OR a.suspended_at IS NOT NULL AS is_suspended
            FROM inference_replica r JOIN marketplace_modelversion v ON v.id = r.version_id
                JOIN marketplace_aimodel m ON m.id = v.model_id
                JOIN marketplace_account a ON a.id = m.account_id
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


_ENDED_COLUMNS = "id, node_id, replica_id, artifact_id, purpose, ended_at"


async def end_lease(connection: AsyncConnection, lease_id: UUID) -> EndedLeaseRow:
    """Mark a live lease as ended."""
    async with connection.cursor(row_factory=class_row(EndedLeaseRow)) as cursor:
        await cursor.execute(
            f"""UPDATE inference_lease SET ended_at = clock_timestamp()
                WHERE id = %s AND ended_at IS NULL RETURNING {_ENDED_COLUMNS}""",  # noqa: S608
            [lease_id],
        )
        ended = await cursor.fetchone()
        assert ended is not None, "the caller has locked a live lease"
        return ended


async def end_expired_leases(
    connection: AsyncConnection, *, artifact_id: UUID
) -> list[EndedLeaseRow]:
    """Mark the leases of a version that ran out as ended, in the order in which they did."""
    async with connection.cursor(row_factory=class_row(EndedLeaseRow)) as cursor:
        await cursor.execute(
            f"""
            UPDATE inference_lease SET ended_at = expires_at
            WHERE artifact_id = %s AND ended_at IS NULL AND expires_at < clock_timestamp()
            RETURNING {_ENDED_COLUMNS}
            """,  # noqa: S608
            [artifact_id],
        )
        return sorted(await cursor.fetchall(), key=lambda row: row.ended_at)


async def lock_chain(connection: AsyncConnection, chain: str) -> None:
    """Keep other entries of this chain waiting until the transaction ends."""
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended('release-log ' || %s, 0))", [chain]
    )


async def find_chain_head(connection: AsyncConnection, artifact_id: UUID | None) -> ChainHead:
    """The last entry of a version's chain, and the time."""
    async with connection.cursor(row_factory=class_row(ChainHead)) as cursor:
        await cursor.execute(
            """
            SELECT coalesce(max(seq), 0) AS seq,
                coalesce((array_agg(hash ORDER BY seq DESC))[1], '') AS hash,
                clock_timestamp() AS now
            FROM (
                SELECT seq, hash FROM inference_keyrelease
                WHERE artifact_id IS NOT DISTINCT FROM %s AND seq IS NOT NULL
                ORDER BY seq DESC LIMIT 1
            ) AS last
            """,
            [artifact_id],
        )
        head = await cursor.fetchone()
        assert head is not None
        return head


async def find_node_name(connection: AsyncConnection, node_id: UUID | None) -> str:
    """Under which name a node joined here; empty for one that is not known."""
    cursor = await connection.execute(
        "SELECT name FROM inference_nodeidentity WHERE node_id = %s", [node_id]
    )
    row = await cursor.fetchone()
    return row[0] if row else ""


async def has_artifact(connection: AsyncConnection, artifact_id: UUID) -> bool:
    """Whether there is such a version."""
    cursor = await connection.execute(
        "SELECT 1 FROM inference_artifact WHERE version_id = %s", [artifact_id]
    )
    return await cursor.fetchone() is not None


async def count_requests(
    connection: AsyncConnection, *, artifact_id: UUID | None, window_s: int
) -> RequestCount:
    """Entries of a version within the last `window_s`."""
    async with connection.cursor(row_factory=class_row(RequestCount)) as cursor:
        await cursor.execute(
            """
            SELECT count(*) FILTER (WHERE outcome IN ('released', 'refused')) AS requests,
                count(*) FILTER (WHERE outcome = 'alarm') AS alarms
            FROM inference_keyrelease
            WHERE artifact_id IS NOT DISTINCT FROM %s
                AND at > clock_timestamp() - make_interval(secs => %s)
            """,
            [artifact_id, window_s],
        )
        counted = await cursor.fetchone()
        assert counted is not None
        return counted


async def insert_release(connection: AsyncConnection, row: Mapping[str, Any]) -> None:
    """Write an entry of the release log."""
    await connection.execute(
        """
        INSERT INTO inference_keyrelease (artifact_id, seq, at, outcome, reason_code, node_id,
            node_name, replica_id, purpose, loader_digest, evidence, lease_id,
            lease_expires_at, hash, signature, kid)
        VALUES (%(artifact_id)s, %(seq)s, %(at)s, %(outcome)s, %(reason_code)s, %(node_id)s,
            %(node_name)s, %(replica_id)s, %(purpose)s, %(loader_digest)s, %(evidence)s,
            %(lease_id)s, %(lease_expires_at)s, %(hash)s, %(signature)s, %(kid)s)
        """,
        row,
    )


async def is_shredded(
    connection: AsyncConnection, artifact_id: UUID, *, lasting: bool = False
) -> bool:
    """Whether the artifact's private key was destroyed.

    Args:
        connection: Within a transaction.
        artifact_id: The version.
        lasting: Nor shall it be before this transaction ends.
    """
    lock = "FOR SHARE" if lasting else ""
    cursor = await connection.execute(
        f"""SELECT shredded_at IS NOT NULL FROM inference_uploadkey
            WHERE artifact_id = %s {lock}""",  # noqa: S608
        [artifact_id],
    )
    row = await cursor.fetchone()
    return row is not None and bool(row[0])


async def lock_model(connection: AsyncConnection, model_id: UUID, *, shared: bool = False) -> None:
    """Until the transaction ends: shared by those who seal, held alone by who moves keys."""
    kind = "_shared" if shared else ""
    await connection.execute(
        f"SELECT pg_advisory_xact_lock{kind}(hashtextextended(%s, 0))",
        [f"inference_modelkey:{model_id}"],
    )


@dataclass(frozen=True, slots=True)
class GenerationRow:
    """A generation of a model's key."""

    generation: int
    kek_ref: str
    is_destroyed: bool
    final_at: datetime | None


async def list_generations(connection: AsyncConnection, model_id: UUID) -> list[GenerationRow]:
    """All generations of a model, the oldest first."""
    async with connection.cursor(row_factory=class_row(GenerationRow)) as cursor:
        await cursor.execute(
            """SELECT generation, kek_ref, destroyed_at IS NOT NULL AS is_destroyed, final_at
               FROM inference_modelkey WHERE model_id = %s ORDER BY generation""",
            [model_id],
        )
        return await cursor.fetchall()


async def insert_generation(
    connection: AsyncConnection, *, model_id: UUID, generation: int, kek_ref: str
) -> None:
    """Add a generation; a concurrent twin loses silently."""
    await connection.execute(
        """INSERT INTO inference_modelkey (model_id, generation, kek_ref, created_at)
           VALUES (%s, %s, %s, clock_timestamp()) ON CONFLICT DO NOTHING""",
        [model_id, generation, kek_ref],
    )


async def note_destroyed(
    connection: AsyncConnection, kek_ref: str, *, final_at: datetime | None
) -> None:
    """A generation is destroyed; what was noted first stays."""
    await connection.execute(
        """UPDATE inference_modelkey SET destroyed_at = clock_timestamp(),
               final_at = coalesce(%s, clock_timestamp())
           WHERE kek_ref = %s AND destroyed_at IS NULL""",
        [final_at, kek_ref],
    )


async def list_models_with_keys(connection: AsyncConnection) -> list[UUID]:
    """Models whose newest key is not destroyed, the oldest first."""
    async with connection.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute(
            """SELECT model_id FROM inference_modelkey WHERE destroyed_at IS NULL
               GROUP BY model_id ORDER BY min(id)"""
        )
        return await cursor.fetchall()


async def list_sealed_elsewhere(
    connection: AsyncConnection,
    model_id: UUID,
    *,
    kek_ref: str,
    excluded: Collection[UUID],
    count_max: int,
) -> list[UploadKeyRow]:
    """Key pairs of a model that are sealed under another key than this one."""
    async with connection.cursor(row_factory=class_row(UploadKeyRow)) as cursor:
        await cursor.execute(
            f"""SELECT {UPLOAD_KEY_COLUMNS} FROM inference_uploadkey
                WHERE model_id = %s AND kek_ref <> %s AND sealed_private_key IS NOT NULL
                    AND artifact_id <> ALL(%s)
                ORDER BY id LIMIT %s""",  # noqa: S608
            [model_id, kek_ref, list(excluded), count_max],
        )
        return await cursor.fetchall()


async def move_upload_key(
    connection: AsyncConnection, row: UploadKeyRow, *, kek_ref: str, sealed_private_key: bytes
) -> None:
    """Seal a key pair under another key, unless somebody else has moved or shredded it."""
    await connection.execute(
        """UPDATE inference_uploadkey SET kek_ref = %s, sealed_private_key = %s
           WHERE artifact_id = %s AND kek_ref = %s AND sealed_private_key IS NOT NULL""",
        [kek_ref, sealed_private_key, row.artifact_id, row.kek_ref],
    )


async def list_version_states(connection: AsyncConnection, model_id: UUID) -> dict[UUID, str]:
    """The states of all versions of a model, by their id."""
    cursor = await connection.execute(
        "SELECT id, state FROM marketplace_modelversion WHERE model_id = %s", [model_id]
    )
    return {row[0]: row[1] for row in await cursor.fetchall()}


async def list_key_states(
    connection: AsyncConnection, model_id: UUID
) -> dict[UUID, tuple[str, bool]]:
    """By artifact: under which key its pair is sealed, and whether it was shredded."""
    cursor = await connection.execute(
        """SELECT artifact_id, kek_ref, shredded_at IS NOT NULL
           FROM inference_uploadkey WHERE model_id = %s""",
        [model_id],
    )
    return {row[0]: (row[1], row[2]) for row in await cursor.fetchall()}


async def shred_upload_keys(connection: AsyncConnection, artifact_ids: Collection[UUID]) -> None:
    """Forget the private halves; repeating it changes nothing."""
    await connection.execute(
        """UPDATE inference_uploadkey
           SET sealed_private_key = NULL, shredded_at = clock_timestamp()
           WHERE artifact_id = ANY(%s) AND shredded_at IS NULL""",
        [list(artifact_ids)],
    )


async def end_live_leases(connection: AsyncConnection, *, artifact_id: UUID) -> list[EndedLeaseRow]:
    """End all leases of a version now, whose end is this then."""
    async with connection.cursor(row_factory=class_row(EndedLeaseRow)) as cursor:
        await cursor.execute(
            f"""
            UPDATE inference_lease SET ended_at = clock_timestamp()
            WHERE artifact_id = %s AND ended_at IS NULL
            RETURNING {_ENDED_COLUMNS}
            """,  # noqa: S608
            [artifact_id],
        )
        return await cursor.fetchall()


@dataclass(frozen=True, slots=True)
class ShredRow:
    """The proof that a version's or a whole model's keys were destroyed."""

    id: UUID
    model_id: UUID
    artifact_id: UUID | None
    kek_refs: list[str]
    provider: str
    by: str
    reason: str
    at: datetime
    final_at: datetime
    signature: str


SHRED_COLUMNS = "id, model_id, artifact_id, kek_refs, provider, by, reason, at, final_at, signature"


async def find_shred(
    connection: AsyncConnection, model_id: UUID, artifact_id: UUID | None
) -> ShredRow | None:
    """The proof about a version, or about the whole model."""
    async with connection.cursor(row_factory=class_row(ShredRow)) as cursor:
        await cursor.execute(
            f"""SELECT {SHRED_COLUMNS} FROM inference_keyshred
                WHERE model_id = %s AND artifact_id IS NOT DISTINCT FROM %s""",  # noqa: S608
            [model_id, artifact_id],
        )
        return await cursor.fetchone()


async def insert_shred(connection: AsyncConnection, row: ShredRow) -> None:
    """Write a proof; the first one stays."""
    await connection.execute(
        f"""INSERT INTO inference_keyshred ({SHRED_COLUMNS})
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING""",  # noqa: S608
        [
            row.id,
            row.model_id,
            row.artifact_id,
            Jsonb(row.kek_refs),
            row.provider,
            row.by,
            row.reason,
            row.at,
            row.final_at,
            row.signature,
        ],
    )
