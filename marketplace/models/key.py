"""API keys of consumers and tokens of creators: shown once, stored as a digest."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models

from marketplace.core.ids import new_id
from marketplace.models.account import Account, User
from marketplace.models.limits import Limited


class APIKey(Limited):
    """A secret that acts for one account within its scopes."""

    class Mode(models.TextChoices):
        LIVE = "live", "Live key"
        TEST = "test", "Test key"
        TOKEN = "token", "Creator token"

    class Scope(models.TextChoices):
        PREDICT = "predict", "Run predictions"
        READ = "read", "Read models, usage and wallet"
        PUSH = "push", "Push versions and edit models"
        PUBLISH = "publish", "Move channels"
        KEYS = "keys", "Make and revoke keys"
        BILLING = "billing", "Top up the wallet"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey(Account, models.CASCADE, related_name="api_keys")
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    name = models.CharField(max_length=80)
    mode = models.CharField(max_length=8, choices=Mode)
    scopes = ArrayField(models.CharField(max_length=16, choices=Scope), size=8)
    digest = models.BinaryField(max_length=32, unique=True, editable=False)
    hint = models.CharField(max_length=16, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    # The most that predictions with this key may cost, by day and month (UTC) and in all.
    budget_day_nanos = models.BigIntegerField(null=True, blank=True)
    budget_month_nanos = models.BigIntegerField(null=True, blank=True)
    budget_total_nanos = models.BigIntegerField(null=True, blank=True)
    # `owner/name` of the models, and the networks (CIDR) of the callers; empty: all.
    allowed_models = ArrayField(models.CharField(max_length=103), default=list, blank=True)
    allowed_networks = ArrayField(models.CharField(max_length=49), default=list, blank=True)

    class Meta:
        verbose_name = "API key"
        indexes = [models.Index(fields=["account", "-created_at"], name="marketplace_key_account")]

    def __str__(self) -> str:
        return f"{self.name} ({self.hint}…)"
