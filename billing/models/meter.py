"""What postpaid accounts used, hour by hour, as it is reported to the meter at Stripe.

A transfer of usage, or of what was given back of it, is in one report, and only one. A report is
written before it is sent, under an identifier that follows from what it reports: sent twice, it
counts once.
"""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from billing.models.ledger import Transfer
from marketplace.core.ids import new_id


class MeterSeal(models.Model):
    """An hour to which no booking can be added any more: all older transactions are over."""

    hour = models.DateTimeField(primary_key=True)
    # The number of a transaction that began when the hour was first looked at after its end.
    # All that could write into the hour have a lower one.
    barrier_transaction = models.BigIntegerField()
    # From which transaction on the next hour reads; set with `sealed_at`.
    mark_transaction = models.BigIntegerField(null=True)
    sealed_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}:00"


class MeterReport(models.Model):
    """A part of what an account used in one hour; what comes late gets the next number.

    What was given back is taken off. A meter cannot count backwards: what is given back beyond
    what was used since is carried as credit (`credit_nanos`) until usage makes up for it.
    """

    class State(models.TextChoices):
        NEW = "new", "New"
        # Sent, perhaps: its answer was lost, or has not come yet.
        SENT = "sent", "Sent"
        OK = "ok", "Counted"
        # Less than a millionth of a dollar; carried to the next.
        NOTHING = "nothing", "Nothing to send"
        # Neither there nor missing by what Stripe says; for a person.
        UNCLEAR = "unclear", "Unclear"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey("marketplace.Account", models.PROTECT, related_name="meter_reports")
    hour = models.DateTimeField()
    seq = models.PositiveSmallIntegerField()
    # The account's first report is 1, and none is left out.
    number = models.PositiveIntegerField()
    # Under which Stripe counts it: inside the hour, or later if the hour's period is over.
    counted_at = models.DateTimeField()
    usage_nanos = models.BigIntegerField()
    # Of predictions that were paid on credit and given back, in whole or part.
    reversed_nanos = models.BigIntegerField(default=0)
    # Carried credit that went to the wallet, where no usage can make up for it any more.
    returned_nanos = models.BigIntegerField(default=0)
    # Of all reports of the account so far, with this one: the most that usage less what was given
    # back has come to. It never falls.
    total_nanos = models.BigIntegerField()
    # How far usage less what was given back is below the total now: carried to the next report.
    credit_nanos = models.BigIntegerField(default=0)
    value_micro = models.BigIntegerField()
    # What is less than a millionth, and left for the next report.
    residual_nanos = models.PositiveSmallIntegerField()
    predictions = models.PositiveIntegerField()
    identifier = models.CharField(max_length=100, unique=True)
    state = models.CharField(max_length=8, choices=State, default=State.NEW)
    created_at = models.DateTimeField(auto_now_add=True)
    first_sent_at = models.DateTimeField(null=True, blank=True)
    # Since when it is known to be counted.
    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account", "hour", "seq"], name="billing_meter_report_once"
            ),
            models.UniqueConstraint(
                fields=["account", "number"], name="billing_meter_report_number"
            ),
            # Nothing is lost or made: each is the difference of sums that are rounded down.
            models.CheckConstraint(
                condition=Q(
                    residual_nanos=models.F("total_nanos") - models.F("total_nanos") / 1000 * 1000
                ),
                name="billing_meter_report_residual",
            ),
            models.CheckConstraint(
                condition=Q(usage_nanos=0, predictions=0) | Q(usage_nanos__gt=0, predictions__gt=0),
                name="billing_meter_report_amounts",
            ),
            models.CheckConstraint(
                condition=Q(reversed_nanos__gte=0, returned_nanos__gte=0)
                & (Q(usage_nanos__gt=0) | Q(reversed_nanos__gt=0) | Q(returned_nanos__gt=0)),
                name="billing_meter_report_something",
            ),
            # Nothing is sent while credit is carried, and never less than nothing.
            models.CheckConstraint(
                condition=Q(credit_nanos=0, value_micro__gte=0)
                | Q(credit_nanos__gt=0, value_micro=0),
                name="billing_meter_report_credit",
            ),
        ]
        indexes = [
            models.Index(
                fields=["created_at"],
                name="billing_meter_report_unsent",
                condition=Q(state__in=["new", "sent"]),
            ),
        ]

    def __str__(self) -> str:
        return self.identifier


class MeteredTransfer(models.Model):
    """In which report a transfer is: of usage, of what was given back, or of returned credit."""

    transfer = models.OneToOneField(
        Transfer, models.PROTECT, primary_key=True, related_name="metered"
    )
    report = models.ForeignKey(MeterReport, models.PROTECT, related_name="transfers")

    def __str__(self) -> str:
        return f"{self.transfer_id} in {self.report_id}"
