"""Read uploads and signing keys."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import QuerySet, Sum

from inference.models import SigningKey, Upload, UploadPart
from marketplace.core.clock import to_wire
from marketplace.core.errors import NotFoundError
from marketplace.models import Account
from marketplace.selectors.access import Actor, list_accounts, require_right


def access_upload(actor: Actor, upload_id: UUID) -> Upload:
    """An upload of one of the actor's accounts, on which it may push.

    Raises:
        NotFoundError: None of that id among the actor's accounts.
        ForbiddenError: The actor may not push there.
    """
    upload = (
        Upload.objects.select_related("account", "version__model__account", "signing_key")
        .filter(pk=upload_id, account__in=list_accounts(actor))
        .first()
    )
    if upload is None:
        raise NotFoundError("No such upload.")
    require_right(actor, upload.account, "push")
    return upload


def list_parts(upload: Upload) -> QuerySet[UploadPart]:
    """What has been received, in the order of the manifest."""
    return upload.parts.order_by("file_index", "part")


def find_signing_key(account: Account, fingerprint: str) -> SigningKey | None:
    """A signing key of the account by its fingerprint, revoked or not."""
    return SigningKey.objects.filter(account=account, fingerprint=fingerprint).first()


def list_open_uploads(account: Account) -> QuerySet[Upload]:
    """Uploads of the account that still take parts, or would if they had not expired."""
    return Upload.objects.filter(account=account, state=Upload.State.OPEN).order_by("pk")


def sum_announced_bytes(files: list[dict[str, Any]]) -> int:
    """Sealed size of announced files together."""
    return sum(int(one["cipher_size_bytes"]) for one in files)


def sum_storage_bytes(account: Account) -> int:
    """What the account takes of its quota: stored artifacts, and all that open uploads announce."""
    stored = UploadPart.objects.filter(
        upload__account=account, upload__state=Upload.State.COMPLETE
    ).aggregate(total=Sum("size_bytes"))["total"]
    announced = list_open_uploads(account).values_list("files", flat=True)
    return (stored or 0) + sum(sum_announced_bytes(files) for files in announced)


def describe_upload(upload: Upload) -> dict[str, Any]:
    """An upload as the API shows it, with the parts received so far."""
    return {
        "upload_id": str(upload.pk),
        "version_id": str(upload.version_id),
        "version": upload.version.number,
        "state": upload.state,
        "expires_at": to_wire(upload.expires_at),
        "kem": upload.kem,
        "parts": describe_parts(upload),
    }


def describe_parts(upload: Upload) -> list[dict[str, Any]]:
    """What lies in the store, as the API shows it."""
    return [
        {
            "file": part.file_index,
            "part": part.part,
            "size_bytes": part.size_bytes,
            "sha256": part.sha256,
        }
        for part in list_parts(upload)
    ]
