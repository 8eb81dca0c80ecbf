"""How a person proves to be itself: second factors, sessions, and the mail about both."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models

from marketplace.core.ids import new_id
from marketplace.models.account import User


class Authenticator(models.Model):
    """An app that shows codes of six digits (TOTP, RFC 6238); one per person.

    It counts from the first right code on: until then nobody is asked for one.
    """

    user = models.OneToOneField(User, models.CASCADE, related_name="authenticator")
    # The secret, AES-256-GCM, bound to the person; see `marketplace.services.second_factor`.
    sealed_secret = models.BinaryField(max_length=64, editable=False)
    confirmed_at = models.DateTimeField(null=True, editable=False)
    # The time step of the last code that was taken: none of it or of earlier ones is again.
    last_step = models.BigIntegerField(default=0, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"authenticator app of {self.user}"


class RecoveryCode(models.Model):
    """A code for the day on which app and passkeys are gone; works once."""

    user = models.ForeignKey(User, models.CASCADE, related_name="recovery_codes")
    # SHA-256: a code has 80 random bits, so a slow hash would add nothing.
    digest = models.BinaryField(max_length=32, editable=False)
    used_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["user", "digest"], name="marketplace_recovery_code_unique"
            ),
        ]

    def __str__(self) -> str:
        return f"recovery code of {self.user}"


class Passkey(models.Model):
    """A key pair in a device of the person (WebAuthn); the public half."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(User, models.CASCADE, related_name="passkeys")
    name = models.CharField(max_length=80)
    credential_id = models.BinaryField(max_length=1023, unique=True, editable=False)
    # The attested credential data, which holds the public key (COSE).
    credential = models.BinaryField(max_length=4096, editable=False)
    transports = ArrayField(models.CharField(max_length=16), default=list, blank=True, size=8)
    # Devices that count their signatures count upwards; a copy of the key falls behind.
    sign_count = models.BigIntegerField(default=0, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    last_used_at = models.DateTimeField(null=True, editable=False)

    def __str__(self) -> str:
        return f"{self.name} of {self.user}"


class UserSession(models.Model):
    """Where and how somebody signed in. It ends with the session that it names.

    The row outlives the session for some weeks: by it a device is known again.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(User, models.CASCADE, related_name="sessions")
    session_key = models.CharField(max_length=40, unique=True, editable=False)
    # SHA-256 of a random cookie, in hex; empty where the browser had none.
    device = models.CharField(max_length=64, blank=True)
    user_agent = models.CharField(max_length=300, blank=True)
    address = models.CharField(max_length=45, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    last_seen_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = [
            models.Index(fields=["user", "-last_seen_at"], name="marketplace_session_of_user")
        ]

    def __str__(self) -> str:
        return f"session of {self.user}"


class SecurityNotice(models.Model):
    """A mail about how a person signs in, written in the transaction of the change."""

    class Kind(models.TextChoices):
        FACTOR_ADDED = "factor_added", "a way to sign in was added"
        FACTOR_REMOVED = "factor_removed", "a way to sign in was removed"
        CODES_MADE = "codes_made", "new recovery codes were made"
        CODE_USED = "code_used", "a recovery code was used"
        NEW_DEVICE = "new_device", "somebody signed in on a new device"
        PASSWORD = "password", "the password was changed"
        EMAIL_WANTED = "email_wanted", "another e-mail address was asked for"
        EMAIL_CHANGED = "email_changed", "the e-mail address was changed"
        FACTORS_RESET = "factors_reset", "the second factors were removed by an operator"

    user = models.ForeignKey(User, models.CASCADE, related_name="+")
    # Not the person's present one: who takes an address over must not get its mail.
    address = models.EmailField()
    kind = models.CharField(max_length=16, choices=Kind)
    # What a reader recognises it by, in a few words: a device's name, an address.
    what = models.CharField(max_length=400, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    mailed_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        indexes = [
            models.Index(
                fields=["created_at"],
                condition=models.Q(mailed_at=None),
                name="marketplace_security_waiting",
            )
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} ({self.user})"
