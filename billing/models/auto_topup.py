"""Credit that is bought by itself when the wallet runs low, and the mail that says it does."""

from __future__ import annotations

from django.db import models
from django.db.models import Q


class AutoTopup(models.Model):
    """An account's order to buy credit with its default card, and how that goes."""

    account = models.OneToOneField(
        "marketplace.Account", models.PROTECT, primary_key=True, related_name="auto_topup"
    )
    is_enabled = models.BooleanField(default=False)
    threshold_cents = models.PositiveBigIntegerField()
    amount_cents = models.PositiveIntegerField()
    # Of one calendar month, by UTC.
    monthly_limit_cents = models.PositiveIntegerField()
    # How many were begun; the next one's number, and part of its key, is one more.
    count = models.PositiveIntegerField(default=0)
    declines_in_row = models.PositiveSmallIntegerField(default=0)
    # Not before, after a decline.
    retry_at = models.DateTimeField(null=True, blank=True)
    # Why it was switched off by itself; empty where a person did it, or it is on.
    off_reason = models.CharField(max_length=32, blank=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(amount_cents__gt=0, monthly_limit_cents__gte=models.F("amount_cents")),
                name="billing_auto_topup_amounts",
            ),
        ]
        indexes = [
            models.Index(
                fields=["account"], condition=Q(is_enabled=True), name="billing_auto_topup_on"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount_cents} cents for {self.account_id}"


class BalanceAlert(models.Model):
    """When to tell an account that its wallet runs low; told once each time it does."""

    account = models.OneToOneField(
        "marketplace.Account", models.PROTECT, primary_key=True, related_name="balance_alert"
    )
    # Zero: never.
    threshold_cents = models.PositiveBigIntegerField()
    # Since when the wallet is below it; None while it is not.
    crossed_at = models.DateTimeField(null=True, blank=True)
    mailed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["crossed_at"],
                condition=Q(mailed_at=None) & ~Q(crossed_at=None),
                name="billing_balance_alert_unsent",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.account_id} below {self.threshold_cents} cents"


class PaymentMail(models.Model):
    """Something about an account's payments that its people are told once."""

    class Kind(models.TextChoices):
        # Of an automatic top-up.
        CONFIRM = "confirm", "The bank asks"
        SWITCHED_OFF = "switched_off", "Switched off"

    id = models.BigAutoField(primary_key=True)
    account = models.ForeignKey("marketplace.Account", models.CASCADE, related_name="+")
    kind = models.CharField(max_length=16, choices=Kind)
    topup = models.OneToOneField("billing.Topup", models.CASCADE, related_name="mail")
    created_at = models.DateTimeField(auto_now_add=True)
    mailed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["created_at"],
                condition=Q(mailed_at=None),
                name="billing_payment_mail_unsent",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} for {self.account_id}"
