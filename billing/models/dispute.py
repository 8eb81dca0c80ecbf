"""Payments that a cardholder disputes at the bank, and what the ledger did about each."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from marketplace.core.ids import new_id


class Dispute(models.Model):
    """One dispute at Stripe. The amounts say what is booked of it now, not what Stripe says."""

    class State(models.TextChoices):
        OPEN = "open", "Open"
        WON = "won", "Won"
        LOST = "lost", "Lost"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    dispute_id = models.CharField(max_length=255, unique=True)
    account = models.ForeignKey("marketplace.Account", models.PROTECT, related_name="+")
    # What was paid by the payment: a top-up, or an invoice.
    topup = models.ForeignKey(
        "billing.Topup", models.PROTECT, null=True, blank=True, related_name="disputes"
    )
    invoice = models.ForeignKey(
        "billing.Invoice", models.PROTECT, null=True, blank=True, related_name="disputes"
    )
    payment_intent_id = models.CharField(max_length=255, blank=True)
    amount_cents = models.PositiveBigIntegerField()
    state = models.CharField(max_length=8, choices=State, default=State.OPEN)
    # In Stripe's words, for people.
    status = models.CharField(max_length=40)
    reason = models.CharField(max_length=64, blank=True)
    # Taken out of the wallet for it: held, and used where the bank took the money.
    taken_nanos = models.BigIntegerField(default=0)
    withdrawn_cents = models.PositiveIntegerField(default=0)
    # What of that was tax, and is owed to no state any more.
    tax_cents = models.PositiveIntegerField(default=0)
    fee_cents = models.PositiveIntegerField(default=0)
    # How many transfers there are of it; part of the next one's key.
    transfers = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField()
    checked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(taken_nanos__gte=0, taken_nanos__lte=F("amount_cents") * 10_000_000),
                name="billing_dispute_taken",
            ),
            models.CheckConstraint(
                condition=Q(topup__isnull=False, invoice=None)
                | Q(topup=None, invoice__isnull=False),
                name="billing_dispute_of_one",
            ),
            models.CheckConstraint(
                condition=Q(tax_cents__lte=F("withdrawn_cents")), name="billing_dispute_tax"
            ),
        ]
        indexes = [
            models.Index(
                fields=["checked_at"], condition=Q(state="open"), name="billing_dispute_open"
            ),
        ]

    def __str__(self) -> str:
        return self.dispute_id
