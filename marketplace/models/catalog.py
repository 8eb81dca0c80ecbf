"""What is offered: models, their immutable versions, and the channels that name one."""

from __future__ import annotations

from django.core.validators import RegexValidator
from django.db import models

from marketplace.core.ids import new_id
from marketplace.models.account import Account, User
from marketplace.models.limits import Guarded, Limited

MODEL_NAME_PATTERN = r"^[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?$"
model_name_validator = RegexValidator(
    MODEL_NAME_PATTERN, "Lowercase letters, digits, dots, hyphens and underscores inside."
)


class AIModel(Limited, Guarded):
    """A model that an account offers, addressed as `owner/name`."""

    class Visibility(models.TextChoices):
        PUBLIC = "public", "Public"
        PRIVATE = "private", "Private"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey(Account, models.PROTECT, related_name="models")
    name = models.CharField(max_length=63, validators=[model_name_validator])
    title = models.CharField(max_length=120)
    summary = models.CharField(max_length=280, blank=True)
    card = models.TextField("model card (Markdown)", max_length=65536, blank=True)
    task = models.CharField(max_length=40, blank=True, db_index=True)
    licence = models.CharField("licence (SPDX)", max_length=64, blank=True)
    industry = models.CharField(max_length=40, blank=True, db_index=True)
    visibility = models.CharField(max_length=8, choices=Visibility, default=Visibility.PUBLIC)
    suspended_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = "model"
        constraints = [
            models.UniqueConstraint(fields=["account", "name"], name="marketplace_model_name"),
            models.CheckConstraint(
                condition=models.Q(name__regex=MODEL_NAME_PATTERN),
                name="marketplace_model_name_form",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.account.slug}/{self.name}"


class ModelVersion(models.Model):
    """One sealed state of a model. Its content never changes; only its state moves.

    The arrows between states are in `marketplace.services.catalog`.
    """

    class State(models.TextChoices):
        UPLOADING = "uploading", "Uploading"
        ONBOARDING = "onboarding", "Onboarding"
        IN_REVIEW = "in_review", "In review"
        APPROVED = "approved", "Approved"
        REFUSED = "refused", "Refused"
        FAILED = "failed", "Failed"
        WITHDRAWN = "withdrawn", "Withdrawn"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    model = models.ForeignKey(AIModel, models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    state = models.CharField(max_length=16, choices=State, default=State.UPLOADING)
    runtime = models.CharField(max_length=16, blank=True)
    interface = models.JSONField(default=dict)
    # Of the signed manifest: what of an answer leaves, by output.
    output_policy = models.JSONField(default=dict, blank=True)
    manifest_sha256 = models.CharField(max_length=64, blank=True, db_index=True)
    size_bytes = models.BigIntegerField(default=0)
    publish_channel = models.CharField(max_length=16, blank=True)
    certificate = models.JSONField("benchmark certificate", null=True, blank=True)
    refusal_reason = models.TextField(blank=True)
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["model", "number"], name="marketplace_version_number"),
        ]

    def __str__(self) -> str:
        return f"{self.model}:{self.number}"


class Channel(models.Model):
    """A movable name for a version: consumers follow `prod` unless they pin a number."""

    class Name(models.TextChoices):
        DEV = "dev", "dev"
        STAGING = "staging", "staging"
        PROD = "prod", "prod"

    model = models.ForeignKey(AIModel, models.CASCADE, related_name="channels")
    name = models.CharField(max_length=16, choices=Name)
    version = models.ForeignKey(ModelVersion, models.PROTECT, related_name="channels")
    moved_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["model", "name"], name="marketplace_channel_name"),
        ]

    def __str__(self) -> str:
        return f"{self.model}@{self.name}"


class Review(models.Model):
    """An admin's word on a version; a later one does not overwrite an earlier one."""

    class Decision(models.TextChoices):
        APPROVED = "approved", "Approved"
        REFUSED = "refused", "Refused"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    version = models.ForeignKey(ModelVersion, models.PROTECT, related_name="reviews")
    reviewer = models.ForeignKey(User, models.PROTECT, related_name="+")
    decision = models.CharField(max_length=16, choices=Decision)
    reason = models.TextField(max_length=2000)
    # What the listing said at that time, to which the next version's is compared.
    listing = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.version} {self.decision}"
