"""Mails of the platform to the people of an account: written with the deed, sent by a worker."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from marketplace.core.ids import new_id
from marketplace.models.account import Account, User


class Notice(models.Model):
    """A mail that is owed; `mailed_at` is set in the transaction that sends it."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # To the owners of the account, or to one person.
    account = models.ForeignKey(Account, models.CASCADE, null=True, related_name="+")
    person = models.ForeignKey(User, models.CASCADE, null=True, related_name="+")
    subject = models.CharField(max_length=200)
    text = models.TextField(max_length=8_000)
    created_at = models.DateTimeField(auto_now_add=True)
    mailed_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(account__isnull=False, person=None)
                | Q(account=None, person__isnull=False),
                name="marketplace_notice_to_one",
            ),
        ]
        indexes = [
            models.Index(
                fields=["created_at"],
                name="marketplace_notice_waiting",
                condition=Q(mailed_at=None),
            ),
        ]

    def __str__(self) -> str:
        return self.subject
