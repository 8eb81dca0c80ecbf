"""The end of an account: who wanted it, from when on, and how far it is."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from marketplace.core.ids import new_id
from marketplace.models.account import Account, User


class AccountDeletion(models.Model):
    """A wish to delete an account. It can be taken back until `execute_at`."""

    class State(models.TextChoices):
        PENDING = "pending", "Waits"
        RUNNING = "running", "Under way"
        DONE = "done", "Deleted"
        CANCELED = "canceled", "Canceled"

    class Credit(models.TextChoices):
        REFUND = "refund", "Pay back what was bought"
        FORFEIT = "forfeit", "Give it up"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey(Account, models.PROTECT, related_name="deletions")
    requested_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    state = models.CharField(max_length=8, choices=State, default=State.PENDING)
    # What becomes of the credit in the wallet.
    credit = models.CharField(max_length=8, choices=Credit, default=Credit.REFUND)
    # Whether who asked for it wants to be forgotten as a person, too.
    erases_requester = models.BooleanField(default=False)
    # What it waits for, in sentences; empty where nothing is in the way.
    waiting_for = models.JSONField(default=list, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    execute_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account"],
                condition=Q(state__in=["pending", "running"]),
                name="marketplace_one_deletion",
            ),
        ]
        indexes = [
            models.Index(
                fields=["execute_at"],
                name="marketplace_deletion_open",
                condition=Q(state__in=["pending", "running"]),
            ),
        ]

    def __str__(self) -> str:
        return f"deletion of {self.account} ({self.state})"


class AccountDeletionStep(models.Model):
    """One step of a deletion that is under way."""

    deletion = models.ForeignKey(AccountDeletion, models.CASCADE, related_name="steps")
    position = models.PositiveSmallIntegerField()
    name = models.CharField(max_length=24)
    # What it did, in a sentence.
    detail = models.CharField(max_length=500, blank=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["deletion", "position"]
        constraints = [
            models.UniqueConstraint(
                fields=["deletion", "name"], name="marketplace_deletion_step_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.deletion_id} {self.name}"


class RetiredName(models.Model):
    """A name that a deleted account had: nobody gets it again, for clients have it in their code.

    Only its digest is kept, from which it is known again.
    """

    digest = models.CharField("SHA-256 of what it looks like", max_length=64, primary_key=True)
    retired_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.digest[:12]
