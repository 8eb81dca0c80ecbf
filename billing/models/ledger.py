"""Double-entry ledger: accounts, and transfers whose entries sum to zero.

A transfer has two or more entries. A positive entry adds to what we owe the holder of a
ledger account (credit), a negative one takes from it (debit). Rows are append-only: a
mistake is corrected by another transfer, which names the one it reverses.

`posted_nanos` is the sum of an account's entries and `held_nanos` what running predictions
have reserved. Both are written only by the SQL functions of this package, in the statement
that writes the rows; constraints and triggers stand behind them.

Source: TigerBeetle, "Data Modeling"; Formance Ledger (lock order).
"""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from marketplace.core.ids import new_id


class LedgerAccount(models.Model):
    """One pot of money: whose it is, and what it is for."""

    class Kind(models.TextChoices):
        # Of an account.
        WALLET = "wallet", "Wallet"
        # What a postpaid account owes us, below zero down to its credit limit.
        RECEIVABLE = "receivable", "Receivable"
        DISPUTE_HOLD = "dispute_hold", "Held for a dispute"
        # Of a creator: earned, then payable once it can hardly be disputed any more.
        CREATOR_RESERVE = "creator_reserve", "Creator reserve"
        CREATOR_PAYABLE = "creator_payable", "Creator payable"
        PAYOUT_IN_FLIGHT = "payout_in_flight", "Payout on its way"
        # Of the platform.
        PLATFORM_REVENUE = "platform_revenue", "Platform revenue"
        STRIPE_CLEARING = "stripe_clearing", "Stripe clearing"
        STRIPE_FEE = "stripe_fee", "Fees of Stripe"
        REFUND_IN_FLIGHT = "refund_in_flight", "Refund on its way"
        DISPUTE_LOSS = "dispute_loss", "Lost disputes"
        TAX_PAYABLE = "tax_payable", "Tax payable"
        PROMO_POOL = "promo_pool", "Promotions"
        GOODWILL = "goodwill", "Credits given"
        BAD_DEBT = "bad_debt", "Bad debt"
        ROUNDING = "rounding", "Rounding"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    kind = models.CharField(max_length=24, choices=Kind)
    # None: the platform itself.
    holder = models.ForeignKey(
        "marketplace.Account", models.PROTECT, null=True, blank=True, related_name="ledger_accounts"
    )
    posted_nanos = models.BigIntegerField(default=0)
    held_nanos = models.BigIntegerField(default=0)
    # The floor of posted - held; None for accounts that may go below zero.
    min_available_nanos = models.BigIntegerField(null=True, blank=True)
    # Of a receivable: how much its holder may owe. None: it may not reserve here any more.
    credit_limit_nanos = models.BigIntegerField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["holder", "kind"],
                name="billing_ledger_account_once",
                nulls_distinct=False,
            ),
            models.CheckConstraint(
                condition=Q(held_nanos__gte=0), name="billing_held_not_negative"
            ),
            models.CheckConstraint(
                condition=Q(credit_limit_nanos=None)
                | Q(kind="receivable", credit_limit_nanos__gte=0),
                name="billing_credit_of_receivable",
            ),
            # The last line against overspending, whatever the code does.
            models.CheckConstraint(
                condition=Q(min_available_nanos=None)
                | Q(posted_nanos__gte=F("min_available_nanos") + F("held_nanos")),
                name="billing_account_floor",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.holder or 'the platform'}"

    @property
    def available_nanos(self) -> int:
        """What can be spent now; of a receivable, what is left of the credit."""
        return self.posted_nanos - self.held_nanos + (self.credit_limit_nanos or 0)

    @property
    def owed_nanos(self) -> int:
        """Of a receivable: what its holder owes."""
        return -self.posted_nanos


class Transfer(models.Model):
    """One balanced movement of money; never updated or deleted."""

    class Kind(models.TextChoices):
        TOP_UP = "top_up", "Top-up"
        USAGE = "usage", "Usage"
        REVERSAL = "reversal", "Reversal"
        # A prediction whose price comes back, by the platform's decision.
        USAGE_REVERSAL = "usage_reversal", "Prediction given back"
        REFUND = "refund", "Refund"
        REFUND_SENT = "refund_sent", "Refund sent"
        REFUND_FAILED = "refund_failed", "Refund failed"
        DISPUTE = "dispute", "Dispute"
        DISPUTE_LOST = "dispute_lost", "Dispute lost"
        DISPUTE_WON = "dispute_won", "Dispute won"
        RELEASE = "release", "Reserve released"
        PAYOUT = "payout", "Payout"
        PAYOUT_SENT = "payout_sent", "Payout sent"
        PAYOUT_FAILED = "payout_failed", "Payout failed"
        CLAWBACK = "clawback", "Payout taken back"
        INVOICE_PAID = "invoice_paid", "Invoice paid"
        PROMO = "promo", "Promotion"
        CREDIT = "credit", "Credit"
        ADJUSTMENT = "adjustment", "Adjustment"
        FEE = "fee", "Fee"
        WRITE_OFF = "write_off", "Written off"
        # A payment of an invoice that was written off.
        RECOVERY = "recovery", "Written-off invoice paid"
        # A version that its owner has kept loaded, whether it was called or not.
        WARM_HOUR = "warm_hour", "Hour kept warm"

    id = models.UUIDField(primary_key=True, editable=False)
    kind = models.CharField(max_length=16, choices=Kind)
    # Chosen by the caller and repeated on a retry: at most one transfer per key.
    idempotency_key = models.CharField(max_length=120, unique=True)
    reference = models.CharField(max_length=120, blank=True)
    reverses = models.OneToOneField(
        "self", models.PROTECT, null=True, blank=True, related_name="reversed_by"
    )
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.idempotency_key


class TransferEntry(models.Model):
    """One side of a transfer."""

    id = models.BigAutoField(primary_key=True)
    transfer = models.ForeignKey(Transfer, models.PROTECT, related_name="entries")
    # The index below serves it.
    ledger_account = models.ForeignKey(
        LedgerAccount, models.PROTECT, related_name="entries", db_index=False
    )
    amount_nanos = models.BigIntegerField()

    class Meta:
        indexes = [
            # Entries are written under the lock of their account: its ids are in their order.
            models.Index(fields=["ledger_account", "id"], name="billing_entry_account"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=~Q(amount_nanos=0), name="billing_transfer_entry_not_zero"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount_nanos} {self.ledger_account}"


class Hold(models.Model):
    """A slice of a wallet, reserved for predictions that run; what was spent of it is posted."""

    class State(models.TextChoices):
        PENDING = "pending", "Pending"
        POSTED = "posted", "Posted"
        VOIDED = "voided", "Voided"
        EXPIRED = "expired", "Expired"

    id = models.UUIDField(primary_key=True, editable=False)
    ledger_account = models.ForeignKey(LedgerAccount, models.PROTECT, related_name="holds")
    # Where it counts against the budgets of a key, too.
    api_key_id = models.UUIDField(null=True)
    amount_nanos = models.BigIntegerField()
    posted_nanos = models.BigIntegerField(default=0)
    state = models.CharField(max_length=8, choices=State, default=State.PENDING)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount_nanos__gte=0), name="billing_hold_amount"),
            models.CheckConstraint(
                condition=Q(posted_nanos__gte=0, posted_nanos__lte=F("amount_nanos")),
                name="billing_hold_posted",
            ),
        ]
        indexes = [
            models.Index(
                fields=["expires_at"],
                name="billing_hold_pending",
                condition=Q(state="pending"),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount_nanos} {self.state}"
