"""Read artifacts."""

from __future__ import annotations

from uuid import UUID

from inference.models import Artifact
from strongroom.sealing.manifest import Manifest


def get_artifact(version_id: UUID) -> Artifact:
    """The artifact of a version, with its signing key; every complete upload has one."""
    return Artifact.objects.select_related("signing_key").get(version_id=version_id)


def get_manifest(version_id: UUID) -> Manifest:
    """The manifest of a version, as it was accepted."""
    return Manifest.parse(get_artifact(version_id).manifest)
