"""Payouts: a run, one item for each creator that it pays, and what was taken back of items.

An item's money leaves the payable when its row is made, and is on its way until Stripe has
taken the transfer (`paid`) or refused it (`refused`, and the money is payable again).
"""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from marketplace.core.ids import new_id
from marketplace.core.money import NANOS_PER_CENT


class PayoutRun(models.Model):
    """One payday."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # The payday that began it by itself; None where an admin did.
    payday = models.DateField(null=True, blank=True, unique=True)
    started_by = models.ForeignKey("marketplace.User", models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"run of {self.payday or self.created_at.date()}"


class PayoutItem(models.Model):
    """One creator's payout in one run; its id names the transfer at Stripe."""

    class State(models.TextChoices):
        # Nothing has left; perhaps the platform's balance at Stripe does not suffice yet.
        WAITING = "waiting", "Waiting"
        # A request may have left; until Stripe answers nobody knows.
        SENDING = "sending", "On its way"
        PAID = "paid", "Paid"
        REFUSED = "refused", "Refused"

    OPEN_STATES = (State.WAITING, State.SENDING)

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    run = models.ForeignKey(PayoutRun, models.PROTECT, related_name="items")
    creator = models.ForeignKey("marketplace.Account", models.PROTECT, related_name="payouts")
    amount_cents = models.PositiveIntegerField()
    # Where it goes: the connected account as it was when the row was made.
    destination = models.CharField(max_length=255)
    state = models.CharField(max_length=8, choices=State, default=State.WAITING)
    # Why it waits or was refused, for the creator.
    reason = models.TextField(blank=True)
    # Counts requests whose outcome is certain: each has an idempotency key of its own.
    attempt = models.PositiveSmallIntegerField(default=0)
    connect_transfer_id = models.CharField(max_length=255, null=True, blank=True, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
    # When it was looked after last; the longest waiting comes first.
    checked_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount_cents__gt=0), name="billing_payout_amount"),
            # Else one would not know which of two a lost answer belongs to.
            models.UniqueConstraint(
                fields=["creator"],
                condition=Q(state__in=["waiting", "sending"]),
                name="billing_payout_one_open",
            ),
            models.CheckConstraint(
                condition=Q(state="paid", connect_transfer_id__isnull=False)
                | (~Q(state="paid") & Q(connect_transfer_id=None)),
                name="billing_payout_paid_by",
            ),
        ]
        indexes = [
            models.Index(fields=["creator", "-created_at"], name="billing_payout_creator"),
        ]

    def __str__(self) -> str:
        return f"{self.amount_cents} cents for {self.creator}"

    @property
    def amount_nanos(self) -> int:
        """The amount as the ledger counts it."""
        return self.amount_cents * NANOS_PER_CENT

    @property
    def is_open(self) -> bool:
        """Whether its money is on its way."""
        return self.state in self.OPEN_STATES


class PayoutReversal(models.Model):
    """Part or all of a paid item, taken back from the connected account."""

    class State(models.TextChoices):
        SENDING = "sending", "On its way"
        DONE = "done", "Done"
        REFUSED = "refused", "Refused"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    item = models.ForeignKey(PayoutItem, models.PROTECT, related_name="reversals")
    amount_cents = models.PositiveIntegerField()
    # Whether the creator loses the amount as well, or it becomes payable again.
    is_forfeited = models.BooleanField()
    reason = models.TextField()
    state = models.CharField(max_length=8, choices=State, default=State.SENDING)
    # Why Stripe refused.
    note = models.TextField(blank=True)
    # None for one that somebody made at Stripe and not here.
    created_by = models.ForeignKey("marketplace.User", models.SET_NULL, null=True, related_name="+")
    connect_reversal_id = models.CharField(max_length=255, null=True, blank=True, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(amount_cents__gt=0), name="billing_payout_reversal_amount"
            ),
            models.CheckConstraint(
                condition=Q(state="done", connect_reversal_id__isnull=False)
                | (~Q(state="done") & Q(connect_reversal_id=None)),
                name="billing_payout_reversal_done",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount_cents} cents of {self.item_id}"

    @property
    def amount_nanos(self) -> int:
        """The amount as the ledger counts it."""
        return self.amount_cents * NANOS_PER_CENT
