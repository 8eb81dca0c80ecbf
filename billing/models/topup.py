"""Credit bought by card: one row per payment, credited at most once."""

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
    """A purchase of credit, from the click (or the automatic charge) to the booking."""

    class State(models.TextChoices):
        OPEN = "open", "Open"
        CREDITED = "credited", "Credited"
        EXPIRED = "expired", "Expired"
        FAILED = "failed", "Failed"
        QUARANTINED = "quarantined", "Quarantined"

    class Source(models.TextChoices):
        # A person on Stripe's page; or a saved card, by itself.
        CHECKOUT = "checkout", "Payment page"
        AUTO = "auto", "Automatic"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey("marketplace.Account", models.PROTECT, related_name="topups")
    created_by = models.ForeignKey("marketplace.User", models.SET_NULL, null=True, related_name="+")
    source = models.CharField(max_length=8, choices=Source, default=Source.CHECKOUT)
    # The credit; what the card pays is this and the tax, which is known once it is paid.
    amount_cents = models.PositiveIntegerField()
    is_taxed = models.BooleanField(default=False)
    tax_cents = models.PositiveIntegerField(default=0)
    saves_card = models.BooleanField(default=False)
    state = models.CharField(max_length=16, choices=State, default=State.OPEN)
    checkout_session_id = models.CharField(max_length=255, null=True, unique=True)
    checkout_url = models.TextField(blank=True)
    # Of an automatic one: which of the account's it is, and the card at Stripe that pays.
    number = models.PositiveIntegerField(null=True, blank=True)
    payment_method_id = models.CharField(max_length=255, blank=True)
    payment_intent_id = models.CharField(max_length=255, null=True, unique=True)
    # What Stripe tells of the payment afterwards; the fee is booked when it is known.
    charge_id = models.CharField(max_length=255, null=True, unique=True)
    card_fingerprint = models.CharField(max_length=64, blank=True)
    card_funding = models.CharField(max_length=16, blank=True)
    risk_level = models.CharField(max_length=32, blank=True)
    fee_cents = models.PositiveIntegerField(null=True, blank=True)
    note = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    credited_at = models.DateTimeField(null=True, blank=True)
    # When the poll looked last; it takes the longest waiting first.
    checked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount_cents__gt=0), name="billing_topup_amount"),
            # Never two at once, whatever the code does.
            models.UniqueConstraint(
                fields=["account"],
                condition=Q(source="auto", state="open"),
                name="billing_topup_one_automatic",
            ),
            models.UniqueConstraint(
                fields=["account", "number"], name="billing_topup_automatic_number"
            ),
        ]
        indexes = [
            models.Index(
                fields=["card_fingerprint"],
                condition=~Q(card_fingerprint=""),
                name="billing_topup_fingerprint",
            ),
            models.Index(
                fields=["credited_at"],
                condition=Q(state="credited", fee_cents=None),
                name="billing_topup_no_fee",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount_cents} cents for {self.account}"

    @property
    def gross_cents(self) -> int:
        """What the card paid."""
        return self.amount_cents + self.tax_cents
