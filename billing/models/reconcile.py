"""What a comparison of our books with Stripe's found: each run, and each difference by itself.

A difference is one row for as long as it is seen, whichever runs see it; it is resolved by a
run that looks at the same time and does not find it any more.
"""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from marketplace.core.ids import new_id


class ReconcileRun(models.Model):
    """One comparison of a period, object by object."""

    class State(models.TextChoices):
        RUNNING = "running", "Running"
        CLEAN = "clean", "No difference"
        EXPLAINED = "explained", "All explained"
        UNEXPLAINED = "unexplained", "Unexplained differences"
        FAILED = "failed", "Not finished"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # The end is not part of it.
    since = models.DateTimeField()
    until = models.DateTimeField()
    state = models.CharField(max_length=12, choices=State, default=State.RUNNING)
    is_repairing = models.BooleanField(default=False)
    is_nightly = models.BooleanField(default=False)
    # None: by itself, or by a command.
    started_by = models.ForeignKey("marketplace.User", models.SET_NULL, null=True, related_name="+")
    started_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    # By kind: {"ours": count, "ours_nanos": sum, "stripe": count, "stripe_nanos": sum,
    # "matched": count}.
    counts = models.JSONField(default=dict)
    difference_count = models.PositiveIntegerField(default=0)
    unexplained_count = models.PositiveIntegerField(default=0)
    repaired_count = models.PositiveIntegerField(default=0)
    error = models.TextField(blank=True)
    mailed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(since__lt=F("until")), name="billing_reconcile_run_period"
            ),
        ]
        indexes = [models.Index(fields=["-started_at"], name="billing_reconcile_run_latest")]

    def __str__(self) -> str:
        return f"{self.since:%Y-%m-%d %H:%M} to {self.until:%Y-%m-%d %H:%M}"


class ReconcileDifference(models.Model):
    """One thing that the two sides do not agree about."""

    class Kind(models.TextChoices):
        MOVEMENT = "movement", "Money on Stripe's balance"
        FEE = "fee", "Fee of Stripe"
        TOPUP = "topup", "Top-up"
        REFUND = "refund", "Refund"
        DISPUTE = "dispute", "Dispute"
        PAYOUT = "payout", "Payout"
        REVERSAL = "reversal", "Payout taken back"
        INVOICE = "invoice", "Invoice"
        METER = "meter", "Reported usage"

    class Fault(models.TextChoices):
        MISSING_HERE = "missing_here", "Stripe has it, we do not"
        MISSING_AT_STRIPE = "missing_at_stripe", "We have it, Stripe does not"
        AMOUNT = "amount", "Two amounts"
        OWNER = "owner", "Another owner"
        STATE = "state", "Another state"
        DUPLICATE = "duplicate", "More than once"

    class Explanation(models.TextChoices):
        NONE = "", "Unexplained"
        IN_FLIGHT = "in_flight", "On its way"
        PENDING_AT_STRIPE = "pending_at_stripe", "Stripe is not done with it"
        NOT_YET_APPLIED = "not_yet_applied", "We have not heard of it"
        RESTORED_DATABASE = "restored_database", "Our database is older than it"
        FEE = "fee", "A fee that is not booked yet"
        BANK = "bank", "Between Stripe and the platform's bank"
        BY_HAND = "by_hand", "Explained by a person"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    kind = models.CharField(max_length=12, choices=Kind)
    fault = models.CharField(max_length=20, choices=Fault)
    # Empty where a side has nothing. Ours is a transfer, or a row of the kind.
    our_id = models.CharField(max_length=120, blank=True)
    stripe_id = models.CharField(max_length=255, blank=True)
    our_nanos = models.BigIntegerField(null=True)
    stripe_nanos = models.BigIntegerField(null=True)
    explanation = models.CharField(max_length=20, choices=Explanation, blank=True)
    # What was found, for people.
    note = models.TextField(blank=True)
    # When the thing happened; says which runs look at it.
    happened_at = models.DateTimeField()
    first_run = models.ForeignKey(ReconcileRun, models.PROTECT, related_name="+")
    last_run = models.ForeignKey(ReconcileRun, models.PROTECT, related_name="differences")
    first_seen_at = models.DateTimeField(auto_now_add=True)
    resolved_at = models.DateTimeField(null=True, blank=True)
    # A person's word on it. Above the limit it counts only once another one agrees.
    mark_reason = models.TextField(blank=True)
    marked_by = models.ForeignKey("marketplace.User", models.PROTECT, null=True, related_name="+")
    marked_at = models.DateTimeField(null=True, blank=True)
    mark_needs_two = models.BooleanField(default=True)
    mark_approved_by = models.ForeignKey(
        "marketplace.User", models.PROTECT, null=True, related_name="+"
    )
    mark_approved_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "fault", "our_id", "stripe_id"], name="billing_difference_once"
            ),
            models.CheckConstraint(
                condition=~Q(our_id="", stripe_id=""), name="billing_difference_of_something"
            ),
            models.CheckConstraint(
                condition=~Q(explanation="by_hand")
                | (
                    Q(marked_by__isnull=False)
                    & ~Q(mark_reason="")
                    & (Q(mark_needs_two=False) | Q(mark_approved_by__isnull=False))
                ),
                name="billing_difference_mark",
            ),
            models.CheckConstraint(
                condition=Q(mark_approved_by=None)
                | (Q(marked_by__isnull=False) & ~Q(mark_approved_by=F("marked_by"))),
                name="billing_difference_two_people",
            ),
        ]
        indexes = [
            models.Index(
                fields=["happened_at"],
                name="billing_difference_open",
                condition=Q(resolved_at=None),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.get_fault_display()}"

    @property
    def gap_nanos(self) -> int:
        """How much the two sides are apart."""
        return (self.stripe_nanos or 0) - (self.our_nanos or 0)

    @property
    def is_marked(self) -> bool:
        """Whether a person's word on it waits for a second one."""
        return self.marked_by_id is not None and self.explanation != self.Explanation.BY_HAND
