"""Invoices of Stripe, as they were when we last looked, and what was done about them."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from marketplace.core.ids import new_id


class Invoice(models.Model):
    """An invoice for a period of a postpaid account. Amounts as Stripe has them, in cents."""

    class State(models.TextChoices):
        DRAFT = "draft", "Draft"
        OPEN = "open", "Open"
        PAID = "paid", "Paid"
        VOID = "void", "Void"
        UNCOLLECTIBLE = "uncollectible", "Uncollectible"

    class Check(models.TextChoices):
        # Until it is final, Stripe may still count reports that are on their way.
        WAITING = "waiting", "Waiting"
        AGREES = "agrees", "Agrees"
        DIFFERS = "differs", "Differs"
        # A person looked, and let the difference be.
        ACCEPTED = "accepted", "Accepted"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey("marketplace.Account", models.PROTECT, related_name="invoices")
    stripe_id = models.CharField(max_length=255, unique=True)
    subscription_id = models.CharField(max_length=64)
    number = models.CharField(max_length=64, blank=True)
    state = models.CharField(max_length=16, choices=State)
    currency = models.CharField(max_length=3)
    lines = models.JSONField(default=list)
    subtotal_cents = models.BigIntegerField()
    tax_cents = models.BigIntegerField()
    total_cents = models.BigIntegerField()
    # The total with what Stripe carried here from earlier invoices; nothing where it is too
    # little to be charged, and is carried on.
    due_cents = models.BigIntegerField(default=0)
    paid_cents = models.BigIntegerField(default=0)
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    created_at = models.DateTimeField()
    finalized_at = models.DateTimeField(null=True, blank=True)
    due_at = models.DateTimeField(null=True, blank=True)
    paid_at = models.DateTimeField(null=True, blank=True)
    hosted_url = models.TextField(blank=True)
    pdf_url = models.TextField(blank=True)
    # What the reports of its period say, in millionths; compared once it is final.
    reported_micro = models.BigIntegerField(default=0)
    check_state = models.CharField("check", max_length=8, choices=Check, default=Check.WAITING)
    note = models.TextField(blank=True)
    # Since when its payment is in the ledger.
    booked_at = models.DateTimeField(null=True, blank=True)
    # What of it was written off: if it is paid after all, that is a recovery.
    written_off_nanos = models.BigIntegerField(default=0)
    # When the poll looked last; it takes the longest waiting first.
    checked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(booked_at=None) | Q(state="paid"), name="billing_invoice_booked"
            ),
            models.CheckConstraint(
                condition=Q(written_off_nanos__gte=0), name="billing_invoice_written_off"
            ),
        ]
        indexes = [
            models.Index(fields=["account", "-created_at"], name="billing_invoice_account"),
            models.Index(
                fields=["checked_at"],
                name="billing_invoice_open",
                condition=Q(state__in=["draft", "open"]),
            ),
        ]

    def __str__(self) -> str:
        return self.number or self.stripe_id


class InvoiceNotice(models.Model):
    """That an invoice is due, or late: told once per stage, and remembered."""

    class Stage(models.TextChoices):
        DUE = "due", "Due"
        FIRST = "first", "First reminder"
        SECOND = "second", "Second reminder"
        PAUSED = "paused", "Keys paused"

    id = models.BigAutoField(primary_key=True)
    invoice = models.ForeignKey(Invoice, models.PROTECT, related_name="notices")
    stage = models.CharField(max_length=8, choices=Stage)
    created_at = models.DateTimeField(auto_now_add=True)
    mailed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["invoice", "stage"], name="billing_notice_once"),
        ]

    def __str__(self) -> str:
        return f"{self.stage} of {self.invoice}"
