"""Earnings that left the reserve: one row per creator and day, released once and whole."""

from __future__ import annotations

from django.db import models

from billing.models.ledger import Transfer
from marketplace.core.ids import new_id


class CreatorReserve(models.Model):
    """How long a creator's earnings wait, and how far they were released."""

    creator = models.OneToOneField(
        "marketplace.Account", models.PROTECT, primary_key=True, related_name="creator_reserve"
    )
    # Set by an admin; None: the settings decide.
    days = models.PositiveSmallIntegerField(null=True, blank=True)
    # Every day up to this one is released, or had nothing to release.
    released_until = models.DateField(null=True, blank=True)
    # Every entry of the reserve up to this one belongs to those days: where to read on.
    read_until_entry = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"reserve of {self.creator}"


class Release(models.Model):
    """What one day's entries in a creator's reserve came to, moved to the payable."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    creator = models.ForeignKey("marketplace.Account", models.PROTECT, related_name="releases")
    # UTC's day on which the entries were booked.
    day = models.DateField()
    # Below zero where more was taken back that day than earned.
    amount_nanos = models.BigIntegerField()
    entries = models.PositiveIntegerField()
    # None where the day's entries cancel out.
    transfer = models.OneToOneField(
        Transfer, models.PROTECT, null=True, blank=True, related_name="release"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["creator", "day"], name="billing_release_once"),
            models.CheckConstraint(
                condition=models.Q(amount_nanos=0, transfer=None)
                | (~models.Q(amount_nanos=0) & models.Q(transfer__isnull=False)),
                name="billing_release_transfer",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.creator} {self.day}"
