"""Credit bought by card: one row per Checkout, credited at most once."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from marketplace.core.ids import new_id


class StripeCustomer(models.Model):
    """The customer object at Stripe that stands for an account."""

    account = models.OneToOneField(
        "marketplace.Account", models.PROTECT, primary_key=True, related_name="stripe_customer"
    )
    customer_id = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.customer_id


class Topup(models.Model):
    """A purchase of credit, from the click to the booking."""

    class State(models.TextChoices):
        OPEN = "open", "Open"
        CREDITED = "credited", "Credited"
        EXPIRED = "expired", "Expired"
        QUARANTINED = "quarantined", "Quarantined"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey("marketplace.Account", models.PROTECT, related_name="topups")
    created_by = models.ForeignKey("marketplace.User", models.SET_NULL, null=True, related_name="+")
    amount_cents = models.PositiveIntegerField()
    state = models.CharField(max_length=16, choices=State, default=State.OPEN)
    checkout_session_id = models.CharField(max_length=255, null=True, unique=True)
    checkout_url = models.TextField(blank=True)
    payment_intent_id = models.CharField(max_length=255, null=True, unique=True)
    note = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    credited_at = models.DateTimeField(null=True, blank=True)
    # When the poll looked last; it takes the longest waiting first.
    checked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount_cents__gt=0), name="billing_topup_amount"),
        ]

    def __str__(self) -> str:
        return f"{self.amount_cents} cents for {self.account}"
