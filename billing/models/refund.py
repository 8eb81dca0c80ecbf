"""Credit that goes back to the card that paid for it."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from marketplace.core.ids import new_id


class TopupRefund(models.Model):
    """One refund at Stripe, of one payment; the ledger has booked it before Stripe is asked."""

    class State(models.TextChoices):
        # Out of the wallet, on its way; at Stripe it may be known or not.
        IN_FLIGHT = "in_flight", "On its way"
        SUCCEEDED = "succeeded", "Paid back"
        FAILED = "failed", "Failed"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey("marketplace.Account", models.PROTECT, related_name="+")
    topup = models.ForeignKey("billing.Topup", models.PROTECT, related_name="refunds")
    # Chosen by the caller: what asked for it. Two callers with the same one make one refund.
    request_key = models.CharField(max_length=120)
    # Credit and its part of the tax; together what the card gets.
    net_cents = models.PositiveIntegerField()
    tax_cents = models.PositiveIntegerField(default=0)
    state = models.CharField(max_length=16, choices=State, default=State.IN_FLIGHT)
    stripe_refund_id = models.CharField(max_length=255, null=True, unique=True)
    requested_by = models.CharField(max_length=255)
    reason = models.TextField(blank=True)
    note = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    settled_at = models.DateTimeField(null=True, blank=True)
    checked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["request_key", "topup"], name="billing_refund_once_per_request"
            ),
            models.CheckConstraint(
                condition=Q(net_cents__gt=0) | Q(tax_cents__gt=0), name="billing_refund_amount"
            ),
            models.CheckConstraint(
                condition=Q(tax_cents__lte=F("net_cents") + F("tax_cents")),
                name="billing_refund_parts",
            ),
        ]
        indexes = [
            models.Index(
                fields=["created_at"],
                condition=Q(state="in_flight"),
                name="billing_refund_open",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.gross_cents} cents of {self.topup_id}"

    @property
    def gross_cents(self) -> int:
        """What the card gets."""
        return self.net_cents + self.tax_cents
