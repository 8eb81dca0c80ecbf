"""The platform's own keys: the one that signs keys of uploads, and the one that certifies nodes.

Their private halves lie in the database, sealed under the key `platform` of the KMS, so that
every copy of the broker has the same ones and none lies in the clear. They are made at the
first start. A signing key that an older installation has in its key store is taken over.

Programs pin the signing key when they first see it. When it is changed, the old key signs a
statement that names the new one; who has pinned the old key follows those statements.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row

from inference.keybroker.errors import TooManyPlatformKeysError
from inference.keybroker.kms import Kms
from inference.keybroker.node_ca import NodeAuthority, make_authority
from marketplace.core.clock import utc_now
from strongroom.platform_key import SUCCESSIONS_MAX
from strongroom.sealing import signature, wrap
from strongroom.sealing.canonical import decode_base64, encode_base64

KMS_REF = "platform"
SIGNING, NODE_CA = "signing", "node_ca"


@dataclass(frozen=True, slots=True)
class PlatformKeyRow:
    """A key of the platform; the private half is sealed under `KMS_REF`."""

    kid: str
    public_key: str
    sealed_private_key: bytes
    certificate: str
    predecessor_kid: str
    succession_signature: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class PlatformSigner:
    """A signing key, as one request uses it."""

    kid: str
    private_key: bytes = field(repr=False)

    def sign(self, payload_type: str, payload: bytes) -> bytes:
        """Sign as the platform."""
        return signature.sign(self.private_key, payload_type, payload)


class PlatformKeys:
    """Makes, opens and changes the platform's keys.

    Args:
        kms: Where they are sealed.
        earlier_signing_key: From the key store of an older installation, if it has one.
    """

    def __init__(self, kms: Kms, earlier_signing_key: bytes | None = None) -> None:
        self._kms = kms
        self._earlier_signing_key = earlier_signing_key
        # Opened ones by kid: a KMS may be a network away.
        self._opened: dict[str, bytes] = {}

    async def ensure(self, connection: AsyncConnection) -> None:
        """Make what is missing; of two brokers that start at once the first one's key stays."""
        await self._kms.ensure_key(KMS_REF)
        if await _find(connection, SIGNING) is None:
            key = self._earlier_signing_key or signature.generate_signing_key()
            await self._insert(connection, SIGNING, key, created_at=_now())
        if await _find(connection, NODE_CA) is None:
            authority = make_authority(signature.generate_signing_key(), _now())
            await self._insert(
                connection,
                NODE_CA,
                authority.private_key,
                created_at=_now(),
                certificate=authority.certificate,
            )

    async def signer(self, connection: AsyncConnection) -> PlatformSigner:
        """The key that signs now; another process may have changed it."""
        row = await _get(connection, SIGNING)
        return PlatformSigner(row.kid, await self._open(SIGNING, row))

    async def node_authority(self, connection: AsyncConnection) -> NodeAuthority:
        """What issues the certificates of nodes."""
        row = await _get(connection, NODE_CA)
        return NodeAuthority(await self._open(NODE_CA, row), row.certificate)

    async def describe(self, connection: AsyncConnection) -> dict[str, Any]:
        """The signing key, to compare and to pin, and how it came to be, oldest change first."""
        rows = await _list_signing(connection)
        current = await _get(connection, SIGNING)
        return {
            "kid": current.kid,
            "public_key": current.public_key,
            "fingerprint": signature.fingerprint(_decode(current)),
            "successions": [_succession(row) for row in rows if row.predecessor_kid],
        }

    async def rotate(self, connection: AsyncConnection) -> dict[str, Any]:
        """Make a new signing key, named by the old one; the caller commits.

        Raises:
            TooManyPlatformKeysError: Clients would not follow a longer chain.
        """
        old = await _get(connection, SIGNING, lock=True)
        if len(await _list_signing(connection)) > SUCCESSIONS_MAX:
            raise TooManyPlatformKeysError
        new_key, created_at = signature.generate_signing_key(), _now()
        public_key = signature.derive_public_key(new_key)
        statement = signature.platform_key_payload(
            kid=wrap.derive_kid(public_key),
            public_key=encode_base64(public_key),
            created_at=_wire(created_at),
        )
        old_key = await self._open(SIGNING, old)
        signed = signature.sign(old_key, signature.PLATFORM_KEY_TYPE, statement)
        await connection.execute(
            """UPDATE inference_platformkey SET state = 'retired', retired_at = clock_timestamp()
               WHERE kid = %s""",
            [old.kid],
        )
        await self._insert(
            connection,
            SIGNING,
            new_key,
            created_at=created_at,
            predecessor_kid=old.kid,
            succession_signature=encode_base64(signed),
        )
        return await self.describe(connection)

    async def _insert(
        self,
        connection: AsyncConnection,
        purpose: str,
        private_key: bytes,
        *,
        created_at: datetime,
        certificate: str = "",
        predecessor_kid: str = "",
        succession_signature: str = "",
    ) -> None:
        public_key = signature.derive_public_key(private_key)
        kid = wrap.derive_kid(public_key)
        await connection.execute(
            """
            INSERT INTO inference_platformkey (purpose, kid, public_key, sealed_private_key,
                certificate, predecessor_kid, succession_signature, state, created_at)
            VALUES (%s, %s, %s, %s, %s, %s, %s, 'current', %s)
            ON CONFLICT DO NOTHING
            """,
            [
                purpose,
                kid,
                encode_base64(public_key),
                await self._kms.wrap(KMS_REF, private_key, _context(purpose, kid)),
                certificate,
                predecessor_kid,
                succession_signature,
                created_at,
            ],
        )

    async def _open(self, purpose: str, row: PlatformKeyRow) -> bytes:
        if row.kid not in self._opened:
            self._opened[row.kid] = await self._kms.unwrap(
                KMS_REF,
                row.sealed_private_key,
                _context(purpose, row.kid),
                size_bytes=signature.PRIVATE_KEY_BYTES,
            )
        return self._opened[row.kid]


async def _find(
    connection: AsyncConnection, purpose: str, *, lock: bool = False
) -> PlatformKeyRow | None:
    async with connection.cursor(row_factory=class_row(PlatformKeyRow)) as cursor:
        await cursor.execute(
            f"""SELECT {_COLUMNS} FROM inference_platformkey
                WHERE purpose = %s AND state = 'current' {"FOR UPDATE" if lock else ""}""",  # noqa: S608
            [purpose],
        )
        return await cursor.fetchone()


async def _get(connection: AsyncConnection, purpose: str, *, lock: bool = False) -> PlatformKeyRow:
    row = await _find(connection, purpose, lock=lock)
    assert row is not None, "made when the broker starts"
    return row


async def _list_signing(connection: AsyncConnection) -> list[PlatformKeyRow]:
    async with connection.cursor(row_factory=class_row(PlatformKeyRow)) as cursor:
        await cursor.execute(
            f"SELECT {_COLUMNS} FROM inference_platformkey WHERE purpose = %s ORDER BY id",  # noqa: S608
            [SIGNING],
        )
        return await cursor.fetchall()


_COLUMNS = """kid, public_key, sealed_private_key, certificate, predecessor_kid,
    succession_signature, created_at"""


def _succession(row: PlatformKeyRow) -> dict[str, str]:
    return {
        "kid": row.kid,
        "public_key": row.public_key,
        "created_at": _wire(row.created_at),
        "signed_by": row.predecessor_kid,
        "signature": row.succession_signature,
    }


def _context(purpose: str, kid: str) -> dict[str, str]:
    return {"purpose": f"platform-key/{purpose}", "kid": kid}


def _decode(row: PlatformKeyRow) -> bytes:
    return decode_base64(row.public_key, size_bytes=signature.PUBLIC_KEY_BYTES)


def _now() -> datetime:
    # Whole seconds: what is signed has no more.
    return utc_now().replace(microsecond=0)


def _wire(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
