"""What looks like fraud: signals, the case that collects them, and what is held meanwhile."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from marketplace.core.ids import new_id


class ReviewCase(models.Model):
    """An account that a person must look at; open until somebody has decided."""

    class State(models.TextChoices):
        OPEN = "open", "Open"
        CLEARED = "cleared", "Cleared"
        FROZEN = "frozen", "Kept frozen"
        REFUNDED = "refunded", "Refunded"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey("marketplace.Account", models.PROTECT, related_name="+")
    state = models.CharField(max_length=8, choices=State, default=State.OPEN)
    opened_at = models.DateTimeField(auto_now_add=True)
    decided_at = models.DateTimeField(null=True, blank=True)
    decided_by = models.CharField(max_length=255, blank=True)
    reason = models.TextField(blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account"], condition=Q(state="open"), name="billing_case_one_open"
            ),
        ]
        indexes = [models.Index(fields=["state", "opened_at"], name="billing_case_queue")]

    def __str__(self) -> str:
        return f"{self.account} {self.state}"


class ReviewSignal(models.Model):
    """One observation, with its evidence; the same observation is one row."""

    class Kind(models.TextChoices):
        SELF_DEALING = "self_dealing", "Buys its own model"
        SHARED_CARD = "shared_card", "One card on many accounts"
        CARD_TESTING = "card_testing", "Many declined payments"
        PROMO_CASHING = "promo_cashing", "Promotional credit to a related creator"
        FRAUD_WARNING = "fraud_warning", "Early fraud warning"
        DISPUTE = "dispute", "Dispute"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    case = models.ForeignKey(ReviewCase, models.PROTECT, related_name="signals")
    kind = models.CharField(max_length=16, choices=Kind)
    key = models.CharField(max_length=255, unique=True)
    # Flat: texts and numbers by name, for people.
    evidence = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.key


class AccountFreeze(models.Model):
    """A reason for which an account is frozen; it is so while one of them is not lifted."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey("marketplace.Account", models.PROTECT, related_name="freezes")
    case = models.ForeignKey(ReviewCase, models.PROTECT, related_name="freezes")
    # What froze it, at most once: a lifted one does not come back by a repeated event.
    key = models.CharField(max_length=255, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
    lifted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["account"], condition=Q(lifted_at=None), name="billing_freeze_open"
            ),
        ]

    def __str__(self) -> str:
        return self.key


class PayoutHold(models.Model):
    """Nothing is paid out to this account before the case is decided."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey("marketplace.Account", models.PROTECT, related_name="payout_holds")
    case = models.ForeignKey(ReviewCase, models.PROTECT, related_name="payout_holds")
    reason = models.CharField(max_length=16, choices=ReviewSignal.Kind)
    created_at = models.DateTimeField(auto_now_add=True)
    released_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account", "case"],
                condition=Q(released_at=None),
                name="billing_payout_hold_once",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.account} {self.reason}"


class PaymentDecline(models.Model):
    """A payment of an account that a bank refused; many in an hour look like card testing."""

    id = models.BigAutoField(primary_key=True)
    account = models.ForeignKey("marketplace.Account", models.CASCADE, related_name="+")
    # The charge at Stripe; each has one row.
    charge_id = models.CharField(max_length=255, unique=True)
    card_fingerprint = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["account", "created_at"], name="billing_decline_recent")]

    def __str__(self) -> str:
        return self.charge_id
