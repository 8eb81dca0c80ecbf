"""Cards that an account has saved at Stripe: enough to name one, never enough to use one."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from marketplace.core.ids import new_id


class SavedCard(models.Model):
    """A card at Stripe that may be charged while nobody is there; a copy of what Stripe says."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey("marketplace.Account", models.PROTECT, related_name="saved_cards")
    payment_method_id = models.CharField(max_length=255, unique=True)
    brand = models.CharField(max_length=32)
    last4 = models.CharField(max_length=4)
    exp_month = models.PositiveSmallIntegerField()
    exp_year = models.PositiveSmallIntegerField()
    # The same for the same number, whoever saved it.
    fingerprint = models.CharField(max_length=64, blank=True)
    is_default = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)
    removed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account"],
                condition=Q(is_default=True, removed_at=None),
                name="billing_card_one_default",
            ),
        ]
        indexes = [
            models.Index(
                fields=["fingerprint"],
                condition=~Q(fingerprint=""),
                name="billing_card_fingerprint",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.brand} ending in {self.last4}"
