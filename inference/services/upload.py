"""Take sealed files in: announce, receive parts, abort, expire.

An upload belongs to one version from its start. Its parts are ciphertext; nothing here
could open them. What makes them an artifact is in `inference.services.artifact`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet

from inference.errors import (
    LengthRequiredError,
    PartOutOfRangeError,
    PartSizeMismatchError,
    QuotaExceededError,
    RefusedError,
    SigningKeyRevokedError,
    TooManyUploadsError,
    UploadClosedError,
    UploadExpiredError,
    VersionTooLargeError,
)
from inference.models import SigningKey, Upload, UploadPart
from inference.selectors import upload as uploads
from inference.services import keybroker_client, object_store
from marketplace.core.clock import utc_now
from marketplace.core.errors import PayloadTooLargeError
from marketplace.core.ids import new_id
from marketplace.models import Account, AIModel, ModelVersion
from marketplace.selectors.access import Actor
from marketplace.services import audit, catalog
from strongroom.sealing import floe, manifest
from strongroom.sealing.errors import ManifestError

# A person pushes one model at a time; five leave room for a team and for a failed try.
OPEN_UPLOADS_MAX = 5
# Enough for 140 GB over a slow office line, and for a weekend in between.
LIFETIME = timedelta(hours=72)
# How long the ciphertext of a version that will never serve is kept for its creator's questions.
UNUSABLE_RETENTION = timedelta(days=7)
UNUSABLE_STATES = (ModelVersion.State.FAILED, ModelVersion.State.REFUSED)
# A part that a killed process left half received; no request lives that long.
STALE_SPOOL_S = 24 * 3600
# So that one sweep ends within a task's time limit.
SWEEP_MAX = 200

_SHA256 = re.compile(r"[0-9a-f]{64}")


def begin_upload(
    *,
    model: AIModel,
    actor: Actor,
    files: Any,
    fingerprint: str,
    suites: list[str] | None = None,
) -> Upload:
    """Announce the files of a new version, and get the key to seal its data key to.

    Args:
        model: Whose new version it is; the caller has checked the right to push.
        actor: Who announces it.
        files: Decoded JSON, in the order of the later manifest.
        fingerprint: Of the signing key that will sign the manifest.
        suites: Kinds of wraps that the client can make; None means all.

    Raises:
        RefusedError: The files break a rule of the manifest, or the key is not known.
        VersionTooLargeError: Larger than a version may be.
        TooManyUploadsError: `OPEN_UPLOADS_MAX` are open.
        QuotaExceededError: More than the account may keep.
        KeyBrokerUnavailableError: Nothing was written.
    """
    _check_announced(files)
    key = _find_usable_key(model.account, fingerprint)
    _check_room(model.account, files)
    upload_id, version_id = new_id(), new_id()
    # To the second, as the broker signs it.
    expires_at = (utc_now() + LIFETIME).replace(microsecond=0)
    # Asked before anything is written or locked; a key that is then not used opens nothing.
    kem = keybroker_client.create_upload_key(
        upload_id=upload_id,
        artifact_id=version_id,
        account_id=model.account_id,
        model_id=model.pk,
        expires_at=expires_at,
        suites=suites,
    )
    with transaction.atomic():
        # Takes turns per account, so that two that begin at once stay within the limits.
        Account.objects.select_for_update(no_key=True).get(pk=model.account_id)
        _check_room(model.account, files)
        version = catalog.create_version(model=model, actor=actor, version_id=version_id)
        upload = Upload.objects.create(
            id=upload_id,
            account=model.account,
            version=version,
            signing_key=key,
            files=files,
            kem=kem,
            expires_at=expires_at,
        )
        payload = {"version": version.number, "size_bytes": uploads.sum_announced_bytes(files)}
        audit.record(
            actor.label, "upload.begin", upload, account_id=model.account_id, payload=payload
        )
    return upload


def _check_announced(files: Any) -> None:
    try:
        manifest.check_files(files)
    except ManifestError as error:
        raise RefusedError.from_sdk(error) from error
    size_bytes = uploads.sum_announced_bytes(files)
    if size_bytes > settings.INFERENCE_VERSION_BYTES_MAX:
        raise VersionTooLargeError(
            f"The sealed files have {size_bytes} bytes together; "
            f"{settings.INFERENCE_VERSION_BYTES_MAX} are allowed."
        )


def _find_usable_key(account: Account, fingerprint: str) -> SigningKey:
    key = uploads.find_signing_key(account, fingerprint)
    if key is None:
        detail = f"{account.slug} has no signing key of this fingerprint."
        raise RefusedError("signing_key_unknown", detail, pointer="/signing_key")
    if key.revoked_at is not None:
        raise SigningKeyRevokedError
    return key


def _check_room(account: Account, files: list[dict[str, Any]]) -> None:
    # An upload that has expired is no longer in anybody's way, swept or not.
    open_uploads = uploads.list_open_uploads(account).filter(expires_at__gt=utc_now())
    if open_uploads.count() >= OPEN_UPLOADS_MAX:
        raise TooManyUploadsError(f"At most {OPEN_UPLOADS_MAX} uploads may be open.")
    used, wanted = uploads.sum_storage_bytes(account), uploads.sum_announced_bytes(files)
    if used + wanted > settings.INFERENCE_ACCOUNT_STORAGE_BYTES_MAX:
        raise QuotaExceededError(
            f"{used} bytes are taken, {wanted} more are asked for, and "
            f"{settings.INFERENCE_ACCOUNT_STORAGE_BYTES_MAX} are allowed.",
            used_bytes=used,
            limit_bytes=settings.INFERENCE_ACCOUNT_STORAGE_BYTES_MAX,
        )


def receive_part(
    *,
    upload: Upload,
    file_index: int,
    part: int,
    sha256: str,
    size_bytes: int | None,
    stream: object_store.Readable,
) -> UploadPart:
    """Store one part; sending the same part again changes nothing.

    A part with other content replaces the earlier one: the source changed, and the client
    sealed it anew.

    Args:
        upload: The upload; the caller has checked the right to push.
        file_index: Which of the announced files, from 0.
        part: Which part of it, from 0.
        sha256: What the client says the body hashes to, in hex.
        size_bytes: The request's Content-Length; None if it has none.
        stream: The request's body.

    Raises:
        UploadClosedError, UploadExpiredError: It takes no more parts.
        PartOutOfRangeError, PartSizeMismatchError, PartChecksumMismatchError: This is not
            what was announced; nothing is kept.
        PayloadTooLargeError: More than any part may have.
    """
    require_open(upload)
    _check_part(upload, file_index, part, sha256, size_bytes)
    assert size_bytes is not None
    with object_store.receive(stream, size_bytes=size_bytes, sha256=sha256) as content:
        name = object_store.store_part(upload.version_id, file_index, part, content)
    try:
        return _record_part(upload.pk, file_index, part, size_bytes, sha256, name)
    except BaseException:
        object_store.delete_part(name)
        raise


def require_open(upload: Upload) -> None:
    """Raise unless the upload still takes parts and a manifest."""
    if upload.state == Upload.State.EXPIRED or (
        upload.state == Upload.State.OPEN and upload.expires_at <= utc_now()
    ):
        raise UploadExpiredError
    if upload.state != Upload.State.OPEN:
        raise UploadClosedError(f"This upload is {upload.get_state_display().lower()}.")


def _check_part(
    upload: Upload, file_index: int, part: int, sha256: str, size_bytes: int | None
) -> None:
    if size_bytes is None:
        raise LengthRequiredError
    if size_bytes > floe.PART_BYTES:
        raise PayloadTooLargeError(f"A part has at most {floe.PART_BYTES} bytes.")
    if file_index >= len(upload.files):
        raise PartOutOfRangeError(f"{len(upload.files)} files were announced.")
    sizes = floe.PRODUCTION.part_sizes(upload.files[file_index]["cipher_size_bytes"])
    if part >= len(sizes):
        raise PartOutOfRangeError(f"File {file_index} has {len(sizes)} parts.")
    if size_bytes != sizes[part]:
        raise PartSizeMismatchError(f"This part has {sizes[part]} bytes, not {size_bytes}.")
    if not _SHA256.fullmatch(sha256):
        detail = "X-Part-SHA256 must be 64 hex digits in lower case."
        raise RefusedError("part_checksum_missing", detail)


def _record_part(
    upload_id: UUID, file_index: int, part: int, size_bytes: int, sha256: str, name: str
) -> UploadPart:
    with transaction.atomic():
        # Held against `complete` and `abort`, which must not overlook a part.
        upload = Upload.objects.select_for_update(no_key=True).get(pk=upload_id)
        require_open(upload)
        known = upload.parts.filter(file_index=file_index, part=part).first()
        if known is None:
            return UploadPart.objects.create(
                upload=upload,
                file_index=file_index,
                part=part,
                size_bytes=size_bytes,
                sha256=sha256,
                storage_name=name,
            )
        surplus = name
        if known.sha256 != sha256:
            surplus, known.storage_name, known.sha256 = known.storage_name, name, sha256
            known.save(update_fields=["storage_name", "sha256"])
        transaction.on_commit(lambda: object_store.delete_part(surplus), robust=True)
        return known


def abort_upload(*, upload: Upload, actor: Actor) -> None:
    """Give an upload up: its parts are deleted. Repeating it changes nothing.

    Raises:
        UploadClosedError: It is complete; withdraw the version instead.
    """
    with transaction.atomic():
        locked = _lock(upload.pk)
        if locked.state == Upload.State.COMPLETE:
            raise UploadClosedError("This upload is complete; withdraw the version instead.")
        if locked.state != Upload.State.OPEN:
            return
        _close(locked, Upload.State.ABORTED, "upload_aborted")
        audit.record(actor.label, "upload.abort", locked, account_id=locked.account_id)


def expire_uploads(*, now: datetime | None = None) -> int:
    """Close uploads whose time is over and free what nobody can use; returns how many.

    Also frees the ciphertext of versions that failed or were refused a while ago, and what
    killed processes left half received.
    """
    now = now or utc_now()
    count = 0
    overdue = Upload.objects.filter(state=Upload.State.OPEN, expires_at__lte=now)
    for upload_id in _first_ids(overdue):
        with transaction.atomic():
            upload = _lock(upload_id)
            if upload.state == Upload.State.OPEN and upload.expires_at <= now:
                _close(upload, Upload.State.EXPIRED, "upload_expired")
                count += 1
    _free_what_is_over(now)
    object_store.delete_stale_spools(STALE_SPOOL_S, now.timestamp())
    return count


def _free_what_is_over(now: datetime) -> None:
    """Delete what nobody can use: of versions that will never serve, and what an outage kept."""
    ended = Q(state__in=(Upload.State.ABORTED, Upload.State.EXPIRED))
    unusable = Q(
        state=Upload.State.COMPLETE,
        version__state__in=UNUSABLE_STATES,
        version__created_at__lt=now - UNUSABLE_RETENTION,
    )
    over = Upload.objects.filter(ended | unusable, parts__isnull=False).distinct()
    for upload_id in _first_ids(over):
        if not _free(Upload.objects.get(pk=upload_id)):
            # The store is out; a later sweep goes on.
            break


def _first_ids(queryset: QuerySet[Upload]) -> Iterator[UUID]:
    yield from list(queryset.order_by("pk").values_list("pk", flat=True)[:SWEEP_MAX])


def _lock(upload_id: UUID) -> Upload:
    return (
        Upload.objects.select_for_update(no_key=True, of=("self",))
        .select_related("version")
        .get(pk=upload_id)
    )


def _close(upload: Upload, state: Upload.State, reason_code: str) -> None:
    upload.state = state
    upload.save(update_fields=["state"])
    transaction.on_commit(lambda: _free(upload), robust=True)
    catalog.fail(version=upload.version, reason=reason_code)


def _free(upload: Upload) -> bool:
    """Delete the objects, then their rows: while the rows stand, the sweep tries again."""
    are_gone = object_store.delete_other_parts(upload.version_id, keep=set())
    if are_gone:
        upload.parts.all().delete()
    return are_gone
