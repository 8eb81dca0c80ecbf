"""Money that people move: credits, adjustments, write-offs; with a reason, some by four eyes."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from billing.models.ledger import LedgerAccount, Transfer
from marketplace.core.ids import new_id
from marketplace.core.money import AMOUNT_NANOS_MAX, NANOS_PER_DOLLAR

# What one person alone may move at the most, whatever the settings say; the database holds it.
ALONE_NANOS_MAX = 1_000 * NANOS_PER_DOLLAR


class Adjustment(models.Model):
    """A credit to a wallet, a movement between two ledger accounts, or an invoice written off.

    Nothing moves before it is posted. What it says never changes; its state ends once.
    """

    class Kind(models.TextChoices):
        CREDIT = "credit", "Credit"
        ADJUSTMENT = "adjustment", "Adjustment"
        WRITE_OFF = "write_off", "Write-off"

    class State(models.TextChoices):
        PENDING = "pending", "Waits for approval"
        POSTED = "posted", "Posted"
        REFUSED = "refused", "Refused"
        WITHDRAWN = "withdrawn", "Withdrawn"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    kind = models.CharField(max_length=12, choices=Kind)
    # From whom to whom.
    source = models.ForeignKey(LedgerAccount, models.PROTECT, related_name="+")
    target = models.ForeignKey(LedgerAccount, models.PROTECT, related_name="+")
    amount_nanos = models.BigIntegerField()
    reason = models.TextField()
    # What it belongs to elsewhere, such as a ticket.
    reference = models.CharField(max_length=120, blank=True)
    # Of a write-off: which invoice nobody will pay.
    invoice = models.ForeignKey(
        "billing.Invoice", models.PROTECT, null=True, blank=True, related_name="write_offs"
    )
    needs_two = models.BooleanField()
    state = models.CharField(max_length=12, choices=State, default=State.PENDING)
    created_by = models.ForeignKey("marketplace.User", models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    decided_by = models.ForeignKey("marketplace.User", models.PROTECT, null=True, related_name="+")
    decided_at = models.DateTimeField(null=True, blank=True)
    decision_reason = models.TextField(blank=True)
    transfer = models.OneToOneField(
        Transfer, models.PROTECT, null=True, blank=True, related_name="adjustment"
    )

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(amount_nanos__gt=0, amount_nanos__lte=AMOUNT_NANOS_MAX),
                name="billing_adjustment_amount",
            ),
            models.CheckConstraint(
                condition=~Q(source=F("target")), name="billing_adjustment_two_accounts"
            ),
            models.CheckConstraint(condition=~Q(reason=""), name="billing_adjustment_reason"),
            models.CheckConstraint(
                condition=Q(needs_two=True) | Q(amount_nanos__lte=ALONE_NANOS_MAX),
                name="billing_adjustment_alone_max",
            ),
            models.CheckConstraint(
                condition=Q(state="posted", transfer__isnull=False)
                | (~Q(state="posted") & Q(transfer=None)),
                name="billing_adjustment_transfer",
            ),
            models.CheckConstraint(
                condition=Q(state="pending", decided_by=None)
                | (~Q(state="pending") & Q(decided_by__isnull=False)),
                name="billing_adjustment_decided",
            ),
            models.CheckConstraint(
                condition=~Q(state="posted", needs_two=True) | ~Q(decided_by=F("created_by")),
                name="billing_adjustment_two_people",
            ),
            models.CheckConstraint(
                condition=Q(kind="write_off", invoice__isnull=False)
                | (~Q(kind="write_off") & Q(invoice=None)),
                name="billing_adjustment_invoice",
            ),
            models.UniqueConstraint(
                fields=["invoice"],
                condition=Q(state__in=["pending", "posted"]),
                name="billing_write_off_once",
            ),
        ]
        indexes = [
            models.Index(fields=["-created_at"], name="billing_adjustment_latest"),
            models.Index(
                fields=["created_at"],
                name="billing_adjustment_pending",
                condition=Q(state="pending"),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.pk}"
