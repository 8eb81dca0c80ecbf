"""The key broker's tables. Django owns their schema; only the broker's role reads secrets.

`manage.py grant_roles` gives the web and the workers no right on `UploadKey` at all. The
private halves in it are sealed under a key per model that lives in the broker's KMS only.
"""

from __future__ import annotations

from django.db import models

from marketplace.core.ids import new_id


class UploadKey(models.Model):
    """The HPKE key pair made for one upload, the private half sealed under the model's KEK."""

    upload_id = models.UUIDField(unique=True)
    artifact_id = models.UUIDField(unique=True)
    account_id = models.UUIDField()
    model_id = models.UUIDField(db_index=True)
    kid = models.CharField(max_length=80, unique=True)
    suite = models.CharField(max_length=40)
    public_key = models.CharField(max_length=4096)
    kek_ref = models.CharField(max_length=120)
    sealed_private_key = models.BinaryField()
    signature = models.CharField(max_length=128)
    expires_at = models.DateTimeField()
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.kid


class LeaseChallenge(models.Model):
    """A nonce that a node must sign; each is used once."""

    nonce = models.CharField(max_length=64, primary_key=True)
    node_id = models.UUIDField()
    expires_at = models.DateTimeField(db_index=True)
    used_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return self.nonce


class Lease(models.Model):
    """The right of a node to hold a version's key in a serving process, for a time."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    node_id = models.UUIDField(db_index=True)
    replica_id = models.UUIDField(db_index=True)
    artifact_id = models.UUIDField(db_index=True)
    purpose = models.CharField(max_length=8)
    issued_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return str(self.id)


class KeyRelease(models.Model):
    """The release log: each time a key was asked for, and what became of it."""

    class Outcome(models.TextChoices):
        RELEASED = "released", "Released"
        REFUSED = "refused", "Refused"

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(db_index=True)
    outcome = models.CharField(max_length=16, choices=Outcome)
    reason_code = models.CharField(max_length=64, blank=True)
    node_id = models.UUIDField(null=True)
    replica_id = models.UUIDField(null=True)
    artifact_id = models.UUIDField(null=True, db_index=True)
    purpose = models.CharField(max_length=8, blank=True)
    loader_digest = models.CharField(max_length=64, blank=True)
    lease_id = models.UUIDField(null=True)

    class Meta:
        verbose_name = "key release"

    def __str__(self) -> str:
        return f"{self.at:%F %T} {self.outcome}"
