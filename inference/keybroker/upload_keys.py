"""Key pairs of uploads: one each, so that destroying a model's key shreds every copy.

The creator seals the data key to the public half. The private half is stored sealed under
the model's KEK, which lives in the KMS alone: without it a stolen database, an object store
and all their backups open nothing.
"""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from inference.keybroker import queries
from inference.keybroker.errors import (
    HeaderTagInvalidError,
    KeyWrapInvalidError,
    KmsUnavailableError,
    ShreddedError,
    SuiteUnsupportedError,
)
from inference.keybroker.generations import Generations
from inference.keybroker.kms import KeyDestroyedError, Kms, UnwrapError
from inference.keybroker.platform_keys import PlatformKeys, PlatformSigner
from inference.keybroker.queries import UploadKeyRow
from marketplace.core.errors import ConflictError, NotFoundError
from strongroom.errors import StrongroomError
from strongroom.sealing import floe, signature, wrap
from strongroom.sealing.canonical import decode_base64, encode_base64
from strongroom.sealing.manifest import Manifest
from strongroom.sealing.suite import SUITES, X25519, Suite, find_suite

# Between two readings of a row its pair may have been sealed under the next key.
READS_MAX = 3


class UploadKeys:
    """Makes, checks and opens the key pairs of uploads."""

    def __init__(self, kms: Kms, platform: PlatformKeys, suite: Suite) -> None:
        self._kms = kms
        self._generations = Generations(kms)
        # Of the pairs that are made from now on, for clients that speak it; those of earlier
        # uploads stay what they are.
        self._suite = suite
        # Its signing key signs the public halves.
        self._platform = platform

    async def signer(self, connection: AsyncConnection) -> PlatformSigner:
        """Signs as the platform, with the key that it has now."""
        return await self._platform.signer(connection)

    async def make(
        self,
        connection: AsyncConnection,
        *,
        upload_id: UUID,
        artifact_id: UUID,
        account_id: UUID,
        model_id: UUID,
        expires_at: datetime,
        suites: list[Any] | None = None,
    ) -> dict[str, str]:
        """The public half for an upload, signed; the same again when asked again.

        `suites` names the kinds that the client can seal to; None means all.

        Raises:
            SuiteUnsupportedError: None of them is known.
            ShreddedError: The model's key was destroyed; nothing is uploaded to it any more.
            ConflictError: The artifact belongs to another upload.
        """
        row = await queries.find_upload_key(connection, artifact_id=artifact_id)
        if row is None:
            suite = self._choose_suite(suites)
            signer = await self.signer(connection)
            kek_ref = await self._generations.find_current(connection, model_id)
            row = await self._generate(
                signer, upload_id, artifact_id, model_id, expires_at, suite, kek_ref
            )
            await queries.insert_upload_key(connection, row, account_id=account_id)
            row = await queries.find_upload_key(connection, artifact_id=artifact_id)
        if row is None or row.upload_id != upload_id:
            raise ConflictError("This artifact or upload has a key already.")
        if row.sealed_private_key is None:
            raise ShreddedError
        return _public(row)

    def _choose_suite(self, spoken: list[Any] | None) -> Suite:
        """Ours, if the client speaks it; else one that both do."""
        if spoken is None or self._suite.name in spoken:
            return self._suite
        shared = [suite for name, suite in SUITES.items() if name in spoken]
        if not shared:
            raise SuiteUnsupportedError(f"Known are: {', '.join(SUITES)}.")
        return shared[0]

    async def _generate(
        self,
        signer: PlatformSigner,
        upload_id: UUID,
        artifact_id: UUID,
        model_id: UUID,
        expires_at: datetime,
        suite: Suite,
        kek_ref: str,
    ) -> UploadKeyRow:
        private_key = wrap.generate_private_key(suite)
        public_key = wrap.derive_public_key(private_key, suite)
        kid = wrap.derive_kid(public_key)
        context = _context(artifact_id, kid)
        try:
            sealed = await self._kms.wrap(kek_ref, private_key, context)
        except KeyDestroyedError:
            raise ShreddedError from None
        payload = signature.upload_key_payload(
            kid=kid,
            suite=suite.name,
            public_key=encode_base64(public_key),
            upload_id=str(upload_id),
            artifact_id=str(artifact_id),
            expires_at=_wire(expires_at),
        )
        signed = signer.sign(signature.UPLOAD_KEY_TYPE, payload)
        return UploadKeyRow(
            upload_id=upload_id,
            artifact_id=artifact_id,
            model_id=model_id,
            kid=kid,
            suite=suite.name,
            public_key=encode_base64(public_key),
            kek_ref=kek_ref,
            sealed_private_key=sealed,
            signature=encode_base64(signed),
            expires_at=expires_at,
        )

    async def open_dek(self, connection: AsyncConnection, artifact_id: UUID) -> bytearray:
        """The data key of an artifact. The caller overwrites it after use.

        Raises:
            NotFoundError: No such artifact, or nothing was sealed to us.
            KeyWrapInvalidError: The wrap was made for another upload, version or key.
            ShreddedError: The model's key was destroyed.
        """
        stored = await queries.find_platform_wrap(connection, artifact_id=artifact_id)
        row = await queries.find_upload_key(connection, artifact_id=artifact_id)
        if row is None or stored is None:
            raise NotFoundError("There is no key for this artifact.")
        kid, suite, blob = stored
        if not hmac.compare_digest(kid, row.kid) or suite != row.suite:
            raise KeyWrapInvalidError
        try:
            wrapped = wrap.WrappedKey.parse(
                {"recipient": "platform", "kid": kid, "suite": suite, "blob": blob}
            )
            private_key = await self._open_newest(connection, row)
            return wrap.unwrap_dek(wrapped, private_key, artifact_id=str(artifact_id))
        except (StrongroomError, UnwrapError):
            raise KeyWrapInvalidError from None

    async def _open_newest(self, connection: AsyncConnection, row: UploadKeyRow) -> bytes:
        """The private half; read again where a rotation has just destroyed the key named."""
        tried = ""
        for _ in range(READS_MAX):
            if row.kek_ref == tried:
                break
            tried = row.kek_ref
            try:
                return await self._open(row)
            except KeyDestroyedError:
                newer = await queries.find_upload_key(connection, artifact_id=row.artifact_id)
                row = newer or row
        raise ShreddedError

    async def _open(self, row: UploadKeyRow) -> bytes:
        """The private half of a pair.

        Raises:
            KeyDestroyedError, UnwrapError: It does not open any more, or never did.
            KmsUnavailableError: Also for an answer that is not this pair's private half.
        """
        suite = find_suite(row.suite)
        if row.sealed_private_key is None:
            raise KeyDestroyedError
        if suite is None:
            raise UnwrapError
        private_key = await self._kms.unwrap(
            row.kek_ref,
            row.sealed_private_key,
            _context(row.artifact_id, row.kid),
            size_bytes=suite.private_key_bytes,
        )
        public_key = encode_base64(wrap.derive_public_key(private_key, suite))
        if not hmac.compare_digest(public_key, row.public_key):
            raise KmsUnavailableError("The key store's answer is another key.")
        return private_key

    async def reseal(self, row: UploadKeyRow, kek_ref: str) -> bytes:
        """A pair's private half, sealed under another key; raises as `_open`."""
        private_key = await self._open(row)
        return await self._kms.wrap(kek_ref, private_key, _context(row.artifact_id, row.kid))

    async def check(self, connection: AsyncConnection, artifact_id: UUID) -> None:
        """Prove that the wrapped key opens each file's header, without releasing it.

        Raises:
            HeaderTagInvalidError: A header was made with another key or for another version.
        """
        text = await queries.find_manifest(connection, artifact_id=artifact_id)
        if text is None:
            raise NotFoundError("There is no such artifact.")
        manifest = Manifest.parse(text)
        if manifest.artifact_id != str(artifact_id):
            raise HeaderTagInvalidError
        dek = await self.open_dek(connection, artifact_id)
        try:
            for file in manifest.files:
                floe.Message.open(dek, manifest.file_aad(file), file.floe_header).wipe()
        except StrongroomError:
            raise HeaderTagInvalidError(f"The header of {file.path} does not fit.") from None
        finally:
            dek[:] = bytes(len(dek))


def decode_public_key(text: Any) -> bytes:
    """A raw 32-byte key out of base64; raises StrongroomError."""
    return decode_base64(text, size_bytes=X25519.public_key_bytes)


def _context(artifact_id: UUID, kid: str) -> dict[str, str]:
    return {"purpose": "upload-key", "artifact_id": str(artifact_id), "kid": kid}


def _public(row: UploadKeyRow) -> dict[str, str]:
    return {
        "kid": row.kid,
        "suite": row.suite,
        "public_key": row.public_key,
        "signature": row.signature,
        "expires_at": _wire(row.expires_at),
    }


def _wire(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
