"""What a person is told in the site's own inbox, and what the person wants to be told.

A notice (`Notice`) is a mail; a notification is a line in the inbox. Each person has its own row,
so that what one has read is unread for the others.
"""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from marketplace.core.ids import new_id
from marketplace.models.account import Account, User


class Notification(models.Model):
    """A line in one person's inbox, about an account or about the person itself."""

    class Kind(models.TextChoices):
        # About an account.
        ACCOUNT = "account", "Account"
        SIGNING_KEY = "signing_key", "Signing keys"
        PAYMENT = "payment", "Payments"
        INVOICE = "invoice", "Invoices"
        LOW_BALANCE = "low_balance", "Low wallet"
        BUDGET = "budget", "Key budgets"
        PRICE = "price", "Price changes"
        PAYOUT = "payout", "Payouts"
        ONBOARDING = "onboarding", "Onboarding"
        REVIEW = "review", "Reviews"
        MODERATION = "moderation", "Measures on models"
        ALERT = "alert", "Monitoring alerts"
        ABUSE = "abuse", "Abuse"
        BATCH = "batch", "Batches"
        # About the person.
        SECURITY = "security", "Sign-in and security"
        REPORT = "report", "Your reports"
        ANNOUNCEMENT = "announcement", "Announcements"
        PLATFORM = "platform", "Platform"

    # In the order of time, which is the order of the inbox.
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # Without a check per row, which would lock people and accounts while whoever tells holds
    # other locks; what is left of one that was deleted is seen by nobody, and forgotten.
    person = models.ForeignKey(
        User, models.CASCADE, related_name="notifications", db_index=False, db_constraint=False
    )
    # None: about the person itself.
    account = models.ForeignKey(
        Account, models.CASCADE, null=True, related_name="+", db_constraint=False
    )
    kind = models.CharField(max_length=16, choices=Kind)
    # What it tells of: the same thing is told once.
    key = models.CharField(max_length=120)
    title = models.CharField(max_length=200)
    text = models.CharField(max_length=500, blank=True)
    # A page of this site; empty where there is nothing more to see.
    path = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField()
    read_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["person", "key", "account"],
                nulls_distinct=False,
                name="marketplace_notification_once",
            ),
            models.CheckConstraint(
                condition=Q(path="") | (Q(path__startswith="/") & ~Q(path__startswith="//")),
                name="marketplace_notification_path",
            ),
        ]
        indexes = [
            models.Index(fields=["person", "-id"], name="marketplace_notification_inbox"),
            # What the bell counts, on every page.
            models.Index(
                fields=["person"],
                name="marketplace_notification_new",
                condition=Q(read_at=None),
            ),
        ]

    def __str__(self) -> str:
        return self.title


class NotificationPreference(models.Model):
    """Where a person wants to be told of a kind; without a row, in both places."""

    person = models.ForeignKey(User, models.CASCADE, related_name="+", db_index=False)
    # None: for the kinds about the person itself.
    account = models.ForeignKey(Account, models.CASCADE, null=True, related_name="+")
    kind = models.CharField(max_length=16, choices=Notification.Kind)
    in_inbox = models.BooleanField(default=True)
    by_mail = models.BooleanField(default=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["person", "account", "kind"],
                nulls_distinct=False,
                name="marketplace_preference_once",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} for {self.person_id}"
