"""Read artifacts."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from inference.errors import CiphertextGoneError
from inference.models import Artifact, Upload, UploadPart, WrappedKey
from inference.selectors import upload as uploads
from marketplace.core.errors import NotFoundError
from marketplace.selectors.access import Actor, access_model
from marketplace.selectors.found import get_one
from strongroom.sealing.manifest import Manifest


def get_artifact(version_id: UUID) -> Artifact:
    """The artifact of a version, with its signing key; every complete upload has one."""
    return Artifact.objects.select_related("signing_key").get(version_id=version_id)


def get_manifest(version_id: UUID) -> Manifest:
    """The manifest of a version, as it was accepted."""
    return Manifest.parse(get_artifact(version_id).manifest)


def access_artifact(actor: Actor, owner: str, name: str, number: int) -> Artifact:
    """The artifact of a version that the actor might have pushed.

    Ciphertext and the creator's wrap are for those who hold the creator's key: members with
    the right to push, and nobody else, platform admins included.

    Raises:
        NotFoundError: No such model among those the actor sees, or no such version.
        ForbiddenError: The actor sees the model and may not push to it.
        CiphertextGoneError: The sealed files were deleted.
    """
    model = access_model(actor, owner, name, "push")
    artifact = (
        Artifact.objects.select_related("version__model__account", "signing_key", "upload")
        .filter(version__model=model, version__number=number, upload__state=Upload.State.COMPLETE)
        .first()
    )
    if artifact is None:
        raise NotFoundError("No such version, or its upload was never completed.")
    if not artifact.upload.parts.exists():
        raise gone()
    return artifact


def access_part(
    actor: Actor, owner: str, name: str, number: int, file_index: int, part: int
) -> UploadPart:
    """A stored part of such an artifact.

    Raises:
        NotFoundError: As `access_artifact`, or there is no such part.
        ForbiddenError, CiphertextGoneError: As `access_artifact`.
    """
    artifact = access_artifact(actor, owner, name, number)
    return get_one(
        artifact.upload.parts.filter(file_index=file_index, part=part),
        "The version has no such part.",
    )


def gone() -> CiphertextGoneError:
    """What is answered where a part should lie and does not."""
    return CiphertextGoneError("The sealed files of this version were deleted.")


def describe_artifact(artifact: Artifact) -> dict[str, Any]:
    """An artifact as its creator fetches it: the platform's own wrap is of no use to anybody."""
    wraps = WrappedKey.objects.filter(
        version_id=artifact.version_id, recipient=WrappedKey.Recipient.CREATOR
    )
    return {
        "version_id": str(artifact.version_id),
        "version": artifact.version.number,
        "model": str(artifact.version.model),
        "state": artifact.version.state,
        "manifest": artifact.manifest,
        "manifest_sha256": artifact.manifest_sha256,
        "signature": artifact.signature,
        "signing_key": {
            "public_key": artifact.signing_key.public_key,
            "fingerprint": artifact.signing_key.fingerprint,
        },
        "wrapped_keys": [
            {"recipient": one.recipient, "kid": one.kid, "suite": one.suite, "blob": one.blob}
            for one in wraps
        ],
        "parts": uploads.describe_parts(artifact.upload),
    }
