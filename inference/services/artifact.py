"""Turn a finished upload into an artifact: check the signed manifest against what came.

Everything is compared before anything is written. What cannot be told without a key (that
the wrap opens, that the headers fit) is for onboarding's first step.
"""

from __future__ import annotations

import hashlib
from typing import Any

from django.db import transaction

from inference.errors import RefusedError
from inference.models import Artifact, Upload, UploadPart, WrappedKey
from inference.selectors import upload as uploads
from inference.services import object_store, onboarding
from inference.services.upload import require_open
from marketplace.models import ModelVersion
from marketplace.selectors.access import Actor, require_right
from marketplace.services import audit, catalog
from strongroom.errors import StrongroomError
from strongroom.sealing import signature, wrap
from strongroom.sealing.canonical import decode_base64
from strongroom.sealing.errors import CanonicalError, SignatureError
from strongroom.sealing.manifest import Manifest, SealedFile

# One for the platform and one for the creator.
WRAPS_MAX = 2
# So that an answer about a large model stays readable.
SHOWN_PARTS_MAX = 20


def complete_upload(
    *,
    upload: Upload,
    actor: Actor,
    manifest_text: str,
    signature_text: str,
    wrapped_keys: Any,
) -> ModelVersion:
    """Accept the signed manifest; the version then goes through onboarding.

    Repeating the call with the same manifest returns the same version.

    Args:
        upload: The upload; the caller has checked the right to push.
        actor: Who completes it.
        manifest_text: The canonical JSON, exactly as it was signed.
        signature_text: Ed25519 in base64, by the key that was announced.
        wrapped_keys: Decoded JSON: the data key, sealed to the platform and to the creator.

    Raises:
        RefusedError: With the code of the first rule that is broken; nothing is written.
        UploadClosedError, UploadExpiredError: There is nothing to complete.
        ForbiddenError: The manifest wants to publish, and the actor may not.
    """
    manifest = parse_manifest(manifest_text)
    raw = manifest_text.encode()
    digest = hashlib.sha256(raw).hexdigest()
    with transaction.atomic():
        locked = Upload.objects.select_for_update(no_key=True, of=("self",)).select_related(
            "version__model__account", "signing_key"
        )
        upload = locked.get(pk=upload.pk)
        if _is_repeated(upload, digest):
            return upload.version
        require_open(upload)
        if manifest.publish_channel is not None:
            require_right(actor, upload.account, "publish")
        parts = list(uploads.list_parts(upload))
        _check_identity(manifest, upload)
        _check_files(manifest, upload)
        for file_index, file in enumerate(manifest.files):
            _check_parts(file_index, file, [one for one in parts if one.file_index == file_index])
        _check_signature(upload, raw, signature_text)
        wraps = _check_wraps(upload, wrapped_keys)
        version = _write(upload, actor, manifest, manifest_text, digest, signature_text, wraps)
        keep = {one.storage_name for one in parts}
        transaction.on_commit(
            lambda: object_store.delete_other_parts(version.pk, keep), robust=True
        )
        onboarding.enqueue(version.pk)
    return version


def parse_manifest(text: str) -> Manifest:
    """Read a manifest and check every rule that it can break by itself.

    Raises:
        RefusedError: With the code of the first rule that is broken.
    """
    try:
        manifest = Manifest.parse(text)
    except StrongroomError as error:
        raise RefusedError.from_sdk(error) from error
    if _holds_nul(manifest.interface):
        # Postgres keeps no NUL in a JSON text.
        detail = "A text of the interface holds a NUL character."
        raise RefusedError("interface_invalid", detail, pointer="/interface")
    return manifest


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, dict):
        return any(_holds_nul(one) for pair in value.items() for one in pair)
    if isinstance(value, list | tuple):
        return any(_holds_nul(one) for one in value)
    return False


def _is_repeated(upload: Upload, digest: str) -> bool:
    return (
        upload.state == Upload.State.COMPLETE
        and Artifact.objects.filter(upload=upload, manifest_sha256=digest).exists()
    )


def _check_identity(manifest: Manifest, upload: Upload) -> None:
    version = upload.version
    for name, found, wanted in (
        ("artifact_id", manifest.artifact_id, str(version.pk)),
        ("model", manifest.model, str(version.model)),
    ):
        if found != wanted:
            raise RefusedError("manifest_mismatch", f"Must be {wanted}.", pointer=f"/{name}")


def _check_files(manifest: Manifest, upload: Upload) -> None:
    if len(manifest.files) != len(upload.files):
        detail = f"{len(upload.files)} files were announced, not {len(manifest.files)}."
        raise RefusedError("manifest_mismatch", detail, pointer="/files")
    for index, (file, announced) in enumerate(zip(manifest.files, upload.files, strict=True)):
        for name in ("path", "kind", "plain_size_bytes", "cipher_size_bytes"):
            if getattr(file, name) != announced[name]:
                detail = f"{announced[name]} was announced."
                raise RefusedError("manifest_mismatch", detail, pointer=f"/files/{index}/{name}")


def _check_parts(file_index: int, file: SealedFile, received: list[UploadPart]) -> None:
    by_number = {one.part: one for one in received}
    missing = [part for part in range(len(file.parts)) if part not in by_number]
    if missing:
        raise RefusedError(
            "part_missing",
            f"{len(missing)} of {len(file.parts)} parts of {file.path} were not received.",
            pointer=f"/files/{file_index}/parts/{missing[0]}",
            missing=[{"file": file_index, "part": part} for part in missing[:SHOWN_PARTS_MAX]],
        )
    found = [by_number[part].sha256 for part in range(len(file.parts))]
    promised = [one.sha256 for one in file.parts]
    if found == promised:
        return
    at = next(part for part, digest in enumerate(found) if digest != promised[part])
    place = f"/files/{file_index}/parts/{at}"
    if sorted(found) == sorted(promised):
        detail = f"The parts of {file.path} were received in another order than the manifest's."
        raise RefusedError("part_reordered", detail, pointer=place)
    detail = f"Part {at} of {file.path} is not the one that was received."
    raise RefusedError("part_checksum_mismatch", detail, pointer=place)


def _check_signature(upload: Upload, raw: bytes, text: str) -> None:
    key = upload.signing_key
    if key.revoked_at is not None:
        raise RefusedError("signing_key_revoked", "The announced signing key was revoked.")
    try:
        signature.verify(
            decode_base64(key.public_key),
            signature.MANIFEST_TYPE,
            raw,
            decode_base64(text, size_bytes=signature.SIGNATURE_BYTES),
        )
    except (CanonicalError, SignatureError) as error:
        detail = "The manifest is not signed by the announced key."
        raise RefusedError("signature_invalid", detail, pointer="/signature") from error


def _check_wraps(upload: Upload, values: Any) -> list[wrap.WrappedKey]:
    if not isinstance(values, list) or len(values) > WRAPS_MAX:
        detail = f"Must be a list of at most {WRAPS_MAX} wraps."
        raise RefusedError("key_wrap_invalid", detail, pointer="/wrapped_keys")
    wraps = []
    for index, value in enumerate(values):
        try:
            wraps.append(wrap.WrappedKey.parse(value))
        except StrongroomError as error:
            place = f"/wrapped_keys/{index}"
            raise RefusedError("key_wrap_invalid", error.detail, pointer=place) from error
    recipients = [one.recipient for one in wraps]
    if recipients.count("platform") != 1 or len(set(recipients)) != len(recipients):
        detail = "There must be one wrap for the platform, and at most one for the creator."
        raise RefusedError("key_wrap_invalid", detail, pointer="/wrapped_keys")
    platform = next(one for one in wraps if one.recipient == "platform")
    if platform.kid != upload.kem["kid"] or platform.suite != upload.kem["suite"]:
        detail = "The platform's wrap is not for the key of this upload."
        raise RefusedError("key_wrap_invalid", detail, pointer="/wrapped_keys")
    return wraps


def _write(
    upload: Upload,
    actor: Actor,
    manifest: Manifest,
    text: str,
    digest: str,
    signature_text: str,
    wraps: list[wrap.WrappedKey],
) -> ModelVersion:
    version = upload.version
    upload.state = Upload.State.COMPLETE
    upload.save(update_fields=["state"])
    Artifact.objects.create(
        version=version,
        upload=upload,
        manifest=text,
        manifest_sha256=digest,
        signature=signature_text,
        signing_key=upload.signing_key,
        size_bytes=manifest.cipher_size_bytes,
    )
    WrappedKey.objects.bulk_create(WrappedKey(version=version, **one.to_json()) for one in wraps)
    catalog.start_onboarding(
        version=version,
        runtime=manifest.runtime,
        interface=dict(manifest.interface),
        manifest_sha256=digest,
        size_bytes=manifest.cipher_size_bytes,
        publish_channel=manifest.publish_channel or "",
        output_policy=manifest.policy.to_json().get("output"),
    )
    onboarding.create_steps(version)
    payload = {"version": version.number, "manifest_sha256": digest}
    audit.record(
        actor.label, "upload.complete", upload, account_id=upload.account_id, payload=payload
    )
    return version
