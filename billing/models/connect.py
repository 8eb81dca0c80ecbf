"""Who a creator is at Stripe: our record of the connected account that payouts go to."""

from __future__ import annotations

from django.db import models

from marketplace.core.ids import new_id


class ConnectAccount(models.Model):
    """A creator's connected account, as Stripe described it when we last asked."""

    class Transfers(models.TextChoices):
        """Of the capability to receive transfers; `new` until Stripe has said anything."""

        NEW = "new", "Not begun"
        PENDING = "pending", "Being checked"
        RESTRICTED = "restricted", "Restricted"
        UNSUPPORTED = "unsupported", "Not supported"
        ACTIVE = "active", "Active"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    creator = models.OneToOneField(
        "marketplace.Account", models.PROTECT, related_name="connect_account"
    )
    # What Stripe is asked with; written before the first call and the same on each retry.
    country = models.CharField(max_length=2)
    email = models.EmailField()
    # Counts the requests for an account that were refused; part of the idempotency key.
    attempt = models.PositiveSmallIntegerField(default=1)
    # None until Stripe has answered.
    connect_account_id = models.CharField(max_length=255, null=True, blank=True, unique=True)
    transfers_status = models.CharField(max_length=16, choices=Transfers, default=Transfers.NEW)
    # What Stripe still wants, in its own words, such as "identity.individual.dob".
    requirements = models.JSONField(default=list, blank=True)
    created_by = models.ForeignKey("marketplace.User", models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    # When Stripe was asked last; the poll takes the longest waiting first.
    checked_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.creator} at Stripe"

    @property
    def is_ready(self) -> bool:
        """Whether a transfer to it would be taken, as far as we know."""
        return (
            self.connect_account_id is not None
            and self.transfers_status == self.Transfers.ACTIVE
            and not self.requirements
        )
