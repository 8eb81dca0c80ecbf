"""How a version came in: the upload, its parts, the signed manifest and the key wraps."""

from __future__ import annotations

from django.db import models

from marketplace.core.ids import new_id


class SigningKey(models.Model):
    """A creator's public Ed25519 key; manifests must be signed by one that is known here.

    The first key of an account is trusted at once. A later one is new: whoever has taken the
    account over would register one. An owner may confirm it, a reviewer's word makes it
    trusted, and versions that it signed are not approved before; see
    `inference.services.signing_key`. A revoked one signs nothing any more.
    """

    class State(models.TextChoices):
        NEW = "new", "New"
        TRUSTED = "trusted", "Trusted"
        REVOKED = "revoked", "Revoked"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey("marketplace.Account", models.CASCADE, related_name="signing_keys")
    public_key = models.CharField("public key (base64)", max_length=64)
    fingerprint = models.CharField(max_length=64)
    created_at = models.DateTimeField(auto_now_add=True)
    # As the audit log names who it was; people may leave, the name stays.
    registered_by = models.CharField(max_length=320, blank=True)
    # SHA-256 of the key of the session that registered it; empty where a token did.
    registered_session = models.CharField(max_length=64, blank=True, editable=False)
    confirmed_at = models.DateTimeField(null=True, blank=True)
    confirmed_by = models.ForeignKey(
        "marketplace.User", models.SET_NULL, null=True, blank=True, related_name="+"
    )
    trusted_at = models.DateTimeField(null=True, blank=True)
    mailed_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account", "fingerprint"], name="inference_signing_key_once"
            ),
        ]

    def __str__(self) -> str:
        return self.fingerprint

    @property
    def state(self) -> SigningKey.State:
        """What it is worth today."""
        if self.revoked_at is not None:
            return self.State.REVOKED
        return self.State.TRUSTED if self.trusted_at is not None else self.State.NEW


class Upload(models.Model):
    """A version on its way in: which files were announced, until when, under which key."""

    class State(models.TextChoices):
        OPEN = "open", "Open"
        COMPLETE = "complete", "Complete"
        ABORTED = "aborted", "Aborted"
        EXPIRED = "expired", "Expired"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey("marketplace.Account", models.CASCADE, related_name="uploads")
    version = models.OneToOneField(
        "marketplace.ModelVersion", models.CASCADE, related_name="upload"
    )
    signing_key = models.ForeignKey(SigningKey, models.PROTECT, related_name="+")
    state = models.CharField(max_length=16, choices=State, default=State.OPEN)
    # [{path, kind, plain_size_bytes, cipher_size_bytes}] in the order of the manifest.
    files = models.JSONField()
    # What the key broker made for this upload: {kid, suite, public_key, signature, expires_at}.
    kem = models.JSONField()
    expires_at = models.DateTimeField()
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.version} ({self.state})"


class UploadPart(models.Model):
    """One received part of ciphertext; stays as the artifact's storage once complete."""

    upload = models.ForeignKey(Upload, models.CASCADE, related_name="parts")
    file_index = models.PositiveSmallIntegerField()
    part = models.PositiveIntegerField()
    size_bytes = models.PositiveIntegerField()
    sha256 = models.CharField(max_length=64)
    storage_name = models.CharField(max_length=255)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["upload", "file_index", "part"], name="inference_upload_part_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.upload_id} {self.file_index}/{self.part}"


class Artifact(models.Model):
    """The sealed files of a version: the signed manifest that names each part."""

    version = models.OneToOneField(
        "marketplace.ModelVersion", models.PROTECT, primary_key=True, related_name="artifact"
    )
    upload = models.OneToOneField(Upload, models.PROTECT, related_name="artifact")
    manifest = models.TextField("canonical manifest")
    manifest_sha256 = models.CharField(max_length=64)
    signature = models.CharField("creator's signature (base64)", max_length=128)
    signing_key = models.ForeignKey(SigningKey, models.PROTECT, related_name="+")
    size_bytes = models.BigIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.manifest_sha256


class WrappedKey(models.Model):
    """The data key of a version, sealed to one recipient. Useless without that one's key."""

    class Recipient(models.TextChoices):
        PLATFORM = "platform", "Platform"
        CREATOR = "creator", "Creator"

    version = models.ForeignKey(
        "marketplace.ModelVersion", models.CASCADE, related_name="wrapped_keys"
    )
    recipient = models.CharField(max_length=16, choices=Recipient)
    kid = models.CharField(max_length=80)
    suite = models.CharField(max_length=40)
    blob = models.TextField("HPKE wrap (base64)", max_length=4096)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["version", "recipient"], name="inference_wrapped_key_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.recipient} {self.kid}"
