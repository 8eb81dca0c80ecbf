"""Files of accounts: what they upload for predictions, and what predictions give as files.

A row describes a file; its content lies in the object store, sealed with a key of its own.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from django.db import models
from django.db.models import Q

from inference.core.file_link import FILE_PREFIX
from marketplace.core.ids import from_public, new_id, to_public

# A file that was put up without a word about it: the same as what a keyed prediction gave.
DEFAULT_LIFETIME = timedelta(hours=24)
# Of one file: an hour of studio sound, or a batch of a million short texts.
FILE_BYTES_MAX = 512 * 1024 * 1024
# Of one account: twenty of the largest, and what a page's list and the upkeep go through at ease.
ACCOUNT_FILE_BYTES_MAX = 10 * 1024**3
ACCOUNT_FILES_MAX = 10_000
NAME_LENGTH_MAX = 255
CONTENT_TYPE_LENGTH_MAX = 127


class File(models.Model):
    """One file, from its storing to its end. To delete the key is to delete every copy."""

    class State(models.TextChoices):
        # Its place is taken, its content on the way into the store.
        STORING = "storing", "Being stored"
        READY = "ready", "Ready"
        # Nobody opens it any more; the store still has to let go of it.
        DELETING = "deleting", "Being deleted"

    class Purpose(models.TextChoices):
        UPLOAD = "upload", "Upload"
        OUTPUT = "output", "Output of a prediction"
        BATCH = "batch", "Batch input"
        BATCH_OUTPUT = "batch_output", "Batch output"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey("marketplace.Account", models.CASCADE, related_name="files")
    name = models.CharField(max_length=NAME_LENGTH_MAX)
    purpose = models.CharField(max_length=16, choices=Purpose, default=Purpose.UPLOAD)
    content_type = models.CharField(max_length=CONTENT_TYPE_LENGTH_MAX)
    size_bytes = models.BigIntegerField()
    # Of the plain content, in hex.
    sha256 = models.CharField(max_length=64)
    state = models.CharField(max_length=8, choices=State, default=State.STORING)
    # Where it lies in the store.
    store_key = models.CharField(max_length=255, editable=False)
    # Opens it; itself sealed by the platform's secret. Empty: nothing opens it any more.
    sealed_key = models.BinaryField(max_length=128, editable=False)
    # Which prediction gave it; no key to its table, which it may be written before.
    prediction_id = models.UUIDField(null=True, editable=False)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(size_bytes__range=(0, FILE_BYTES_MAX)), name="inference_file_size"
            ),
            models.CheckConstraint(
                condition=Q(expires_at__gt=models.F("created_at")), name="inference_file_lifetime"
            ),
        ]
        indexes = [
            models.Index(fields=["account", "-id"], name="inference_file_account"),
            models.Index(fields=["expires_at"], name="inference_file_expiry"),
            # What was begun or ended and not finished; few at any time.
            models.Index(
                fields=["created_at"],
                name="inference_file_unfinished",
                condition=~Q(state="ready"),
            ),
        ]

    def __str__(self) -> str:
        return self.public_id

    @property
    def public_id(self) -> str:
        """Its id as consumers know it."""
        return FILE_PREFIX + to_public(self.pk)


def read_file_id(text: str) -> UUID | None:
    """The id in `file_…`; None where the text is none."""
    try:
        return from_public(text.removeprefix(FILE_PREFIX)) if text.startswith(FILE_PREFIX) else None
    except ValueError:
        return None
