"""Terms under which an account pays later: how much it may owe, and when it has to pay."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from marketplace.core.ids import new_id


class PostpaidTerms(models.Model):
    """What was agreed with an account; there is one such row, which begins anew when it ended."""

    class State(models.TextChoices):
        # Asked for by the account, or offered to it by the platform.
        APPLIED = "applied", "Applied"
        OFFERED = "offered", "Offered"
        REFUSED = "refused", "Refused"
        # Agreed; its subscription at Stripe is being made.
        APPROVED = "approved", "Approved"
        ACTIVE = "active", "Active"
        # Predictions are paid from the wallet again; the last invoices are not paid yet.
        CLOSING = "closing", "Closing"
        CLOSED = "closed", "Closed"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.OneToOneField(
        "marketplace.Account", models.PROTECT, related_name="postpaid_terms"
    )
    state = models.CharField(max_length=8, choices=State)
    # Counts how often it began; part of the keys of calls to Stripe.
    round = models.PositiveSmallIntegerField(default=1)
    wanted_limit_nanos = models.BigIntegerField(null=True, blank=True)
    credit_limit_nanos = models.BigIntegerField(default=0)
    due_days = models.PositiveSmallIntegerField(default=14)
    # What was said last: by who asked, approved, refused or ended it.
    note = models.TextField(blank=True)
    # At Stripe.
    meter_id = models.CharField(max_length=64, blank=True)
    subscription_id = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    activated_at = models.DateTimeField(null=True, blank=True)
    closing_at = models.DateTimeField(null=True, blank=True)
    subscription_ended_at = models.DateTimeField(null=True, blank=True)
    closed_at = models.DateTimeField(null=True, blank=True)
    # Keys start no predictions since then: an invoice was not paid in spite of reminders.
    paused_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "postpaid terms"
        constraints = [
            models.CheckConstraint(
                condition=Q(credit_limit_nanos__gte=0), name="billing_postpaid_limit"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.account} {self.state}"


class TaxDetails(models.Model):
    """Whom invoices are addressed to; handed on to the customer at Stripe."""

    account = models.OneToOneField(
        "marketplace.Account", models.PROTECT, primary_key=True, related_name="tax_details"
    )
    name = models.CharField(max_length=150)
    line1 = models.CharField("address", max_length=200)
    line2 = models.CharField("second line", max_length=200, blank=True)
    city = models.CharField(max_length=100)
    postal_code = models.CharField(max_length=20)
    state = models.CharField("state or province", max_length=100, blank=True)
    country = models.CharField(max_length=2)
    tax_id_type = models.CharField(max_length=16, blank=True)
    tax_id = models.CharField(max_length=40, blank=True)
    # Counts the changes; Stripe has those up to `sent_revision`.
    revision = models.PositiveIntegerField(default=1)
    sent_revision = models.PositiveIntegerField(default=0)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name_plural = "tax details"

    def __str__(self) -> str:
        return f"{self.name} for {self.account}"
