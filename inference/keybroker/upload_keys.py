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
    ShreddedError,
)
from inference.keybroker.kms import KeyDestroyedError, KeyProvider, UnwrapError
from inference.keybroker.queries import UploadKeyRow
from marketplace.core.errors import ConflictError, NotFoundError
from strongroom.errors import StrongroomError
from strongroom.sealing import floe, signature, wrap
from strongroom.sealing.canonical import decode_base64, encode_base64
from strongroom.sealing.manifest import Manifest
from strongroom.sealing.suite import X25519, Suite


class UploadKeys:
    """Makes, checks and opens the key pairs of uploads."""

    def __init__(self, kms: KeyProvider, signing_key: bytes, suite: Suite) -> None:
        self._kms = kms
        # Of the pairs that are made from now on; those of earlier uploads stay what they are.
        self._suite = suite
        self._signing_key = signing_key
        self.platform_public_key = signature.derive_public_key(signing_key)

    def platform_key(self) -> dict[str, str]:
        """The key that signs the keys of uploads, for people to compare and programs to pin."""
        return {
            "kid": wrap.derive_kid(self.platform_public_key),
            "public_key": encode_base64(self.platform_public_key),
            "fingerprint": signature.fingerprint(self.platform_public_key),
        }

    async def make(
        self,
        connection: AsyncConnection,
        *,
        upload_id: UUID,
        artifact_id: UUID,
        account_id: UUID,
        model_id: UUID,
        expires_at: datetime,
    ) -> dict[str, str]:
        """The public half for an upload, signed; the same again when asked again.

        Raises:
            ShreddedError: The model's key was destroyed; nothing is uploaded to it any more.
            ConflictError: The artifact belongs to another upload.
        """
        row = await queries.find_upload_key(connection, artifact_id=artifact_id)
        if row is None:
            row = self._generate(upload_id, artifact_id, model_id, expires_at)
            await queries.insert_upload_key(connection, row, account_id=account_id)
            row = await queries.find_upload_key(connection, artifact_id=artifact_id)
        if row is None or row.upload_id != upload_id:
            raise ConflictError("This artifact or upload has a key already.")
        return _public(row)

    def _generate(
        self, upload_id: UUID, artifact_id: UUID, model_id: UUID, expires_at: datetime
    ) -> UploadKeyRow:
        kek_ref = f"model-{model_id}"
        private_key = wrap.generate_private_key(self._suite)
        public_key = wrap.derive_public_key(private_key, self._suite)
        kid = wrap.derive_kid(public_key)
        context = _context(artifact_id, kid)
        try:
            self._kms.ensure_key(kek_ref)
            sealed = self._kms.wrap(kek_ref, private_key, context)
        except KeyDestroyedError:
            raise ShreddedError from None
        payload = signature.upload_key_payload(
            kid=kid,
            suite=self._suite.name,
            public_key=encode_base64(public_key),
            upload_id=str(upload_id),
            artifact_id=str(artifact_id),
            expires_at=_wire(expires_at),
        )
        signed = signature.sign(self._signing_key, signature.UPLOAD_KEY_TYPE, payload)
        return UploadKeyRow(
            upload_id=upload_id,
            artifact_id=artifact_id,
            model_id=model_id,
            kid=kid,
            suite=self._suite.name,
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
        row = await queries.find_upload_key(connection, artifact_id=artifact_id)
        stored = await queries.find_platform_wrap(connection, artifact_id=artifact_id)
        if row is None or stored is None:
            raise NotFoundError("There is no key for this artifact.")
        kid, suite, blob = stored
        if not hmac.compare_digest(kid, row.kid) or suite != row.suite:
            raise KeyWrapInvalidError
        try:
            wrapped = wrap.WrappedKey.parse(
                {"recipient": "platform", "kid": kid, "suite": suite, "blob": blob}
            )
            private_key = self._kms.unwrap(
                row.kek_ref, row.sealed_private_key, _context(artifact_id, kid)
            )
            return wrap.unwrap_dek(wrapped, private_key, artifact_id=str(artifact_id))
        except KeyDestroyedError:
            raise ShreddedError from None
        except (StrongroomError, UnwrapError):
            raise KeyWrapInvalidError from None

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
