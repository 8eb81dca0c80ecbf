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
    # Empty once it was shredded; the row stays, so that no other key takes its place.
    sealed_private_key = models.BinaryField(null=True)
    signature = models.CharField(max_length=128)
    expires_at = models.DateTimeField()
    created_at = models.DateTimeField(auto_now_add=True)
    shredded_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return self.kid


class ModelKey(models.Model):
    """A generation of a model's KEK; the highest that is not destroyed is the one in use."""

    model_id = models.UUIDField()
    generation = models.PositiveIntegerField()
    # Its name in the KMS, which alone holds the key.
    kek_ref = models.CharField(max_length=120, unique=True)
    created_at = models.DateTimeField()
    destroyed_at = models.DateTimeField(null=True)
    # Until then somebody with rights in the KMS could take the destruction back.
    final_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["model_id", "generation"], name="inference_model_key_once"
            ),
        ]

    def __str__(self) -> str:
        return self.kek_ref


class KeyShred(models.Model):
    """The proof that keys were destroyed: of a version, or of a model and all its versions."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    model_id = models.UUIDField(db_index=True)
    artifact_id = models.UUIDField("version's id", null=True)
    kek_refs = models.JSONField("destroyed keys")
    provider = models.CharField(max_length=16)
    by = models.CharField(max_length=320)
    reason = models.TextField(max_length=2000)
    at = models.DateTimeField()
    final_at = models.DateTimeField()
    # Of the platform, over the canonical JSON of the above.
    signature = models.CharField(max_length=128)

    class Meta:
        verbose_name = "key shred"
        constraints = [
            models.UniqueConstraint(
                fields=["model_id", "artifact_id"],
                nulls_distinct=False,
                name="inference_key_shred_once",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.artifact_id or self.model_id} {self.at:%F %T}"


class PlatformKey(models.Model):
    """A key of the platform itself; private halves are sealed under a key of the broker's KMS.

    A signing key that followed another carries its predecessor's word for it: the signature
    under a statement that names this key.
    """

    class Purpose(models.TextChoices):
        SIGNING = "signing", "Signs the keys of uploads"
        NODE_CA = "node_ca", "Issues the certificates of nodes"

    class State(models.TextChoices):
        CURRENT = "current", "Current"
        RETIRED = "retired", "Retired"

    id = models.BigAutoField(primary_key=True)
    purpose = models.CharField(max_length=16, choices=Purpose)
    kid = models.CharField(max_length=80, unique=True)
    public_key = models.CharField("public key (base64)", max_length=64)
    sealed_private_key = models.BinaryField()
    # Of a certificate authority: its own certificate, as PEM.
    certificate = models.TextField(blank=True)
    predecessor_kid = models.CharField(max_length=80, blank=True)
    succession_signature = models.CharField(max_length=128, blank=True)
    state = models.CharField(max_length=16, choices=State, default=State.CURRENT)
    created_at = models.DateTimeField()
    retired_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["purpose"],
                condition=models.Q(state="current"),
                name="inference_one_current_platform_key",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.purpose} {self.kid}"


class NodeIdentity(models.Model):
    """A node that joined, as the broker knows it: the authority on who may have leases."""

    node_id = models.UUIDField(primary_key=True)
    name = models.CharField(max_length=63, db_index=True)
    public_key = models.CharField("public key (base64)", max_length=64)
    serial = models.CharField("serial of its certificate", max_length=48)
    certificate_expires_at = models.DateTimeField()
    joined_at = models.DateTimeField()
    pool = models.CharField(max_length=63, default="default", db_default="default")
    # None for those that joined before this was kept.
    join_token = models.ForeignKey(
        "inference.NodeJoinToken", models.PROTECT, null=True, blank=True, related_name="+"
    )
    # Revoked because another joined under its name: nothing is said against its machine.
    replaced_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "node identities"
        constraints = [
            models.UniqueConstraint(
                fields=["name"],
                condition=models.Q(revoked_at=None),
                name="inference_one_identity_of_a_name",
            ),
        ]

    def __str__(self) -> str:
        return self.name


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
    """The release log: each time a key was asked for, and what became of it.

    The entries of a version form a chain: `hash` covers the entry and the hash before it, and
    the broker signs it (`strongroom.sealing.release_log`). Requests of peers that did not
    prove who they are, or for versions that do not exist, are in a chain without a version.
    """

    class Outcome(models.TextChoices):
        RELEASED = "released", "Released"
        REFUSED = "refused", "Refused"
        ENDED = "ended", "Ended"
        ALARM = "alarm", "Alarm"

    id = models.BigAutoField(primary_key=True)
    artifact_id = models.UUIDField(null=True, db_index=True)
    # Of the chain, from 1; entries from before there were chains have none.
    seq = models.PositiveBigIntegerField(null=True)
    at = models.DateTimeField(db_index=True)
    outcome = models.CharField(max_length=16, choices=Outcome)
    reason_code = models.CharField(max_length=64, blank=True)
    node_id = models.UUIDField(null=True)
    node_name = models.CharField(max_length=63, blank=True, default="")
    replica_id = models.UUIDField(null=True)
    purpose = models.CharField(max_length=8, blank=True)
    loader_digest = models.CharField(max_length=64, blank=True)
    evidence = models.CharField(max_length=100, blank=True, default="")
    lease_id = models.UUIDField(null=True)
    lease_expires_at = models.DateTimeField(null=True)
    hash = models.CharField(max_length=64, blank=True, default="")
    signature = models.CharField(max_length=128, blank=True, default="")
    # Which of the platform's keys signed.
    kid = models.CharField(max_length=80, blank=True, default="")

    class Meta:
        verbose_name = "key release"
        constraints = [
            models.UniqueConstraint(
                fields=["artifact_id", "seq"],
                name="inference_release_chain",
                nulls_distinct=False,
                condition=~models.Q(seq=None),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.at:%F %T} {self.outcome}"
