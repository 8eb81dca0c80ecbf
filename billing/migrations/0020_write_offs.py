from pathlib import Path

import django.db.models.deletion
from django.db import migrations, models

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0019_postpaid_corrections"),
    ]

    operations = [
        migrations.AddField(
            model_name="adjustment",
            name="invoice",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="write_offs",
                to="billing.invoice",
            ),
        ),
        migrations.AddField(
            model_name="invoice",
            name="written_off_nanos",
            field=models.BigIntegerField(default=0),
        ),
        migrations.AlterField(
            model_name="adjustment",
            name="kind",
            field=models.CharField(
                choices=[
                    ("credit", "Credit"),
                    ("adjustment", "Adjustment"),
                    ("write_off", "Write-off"),
                ],
                max_length=12,
            ),
        ),
        migrations.AlterField(
            model_name="transfer",
            name="kind",
            field=models.CharField(
                choices=[
                    ("top_up", "Top-up"),
                    ("usage", "Usage"),
                    ("reversal", "Reversal"),
                    ("usage_reversal", "Prediction given back"),
                    ("refund", "Refund"),
                    ("refund_sent", "Refund sent"),
                    ("refund_failed", "Refund failed"),
                    ("dispute", "Dispute"),
                    ("dispute_lost", "Dispute lost"),
                    ("dispute_won", "Dispute won"),
                    ("release", "Reserve released"),
                    ("payout", "Payout"),
                    ("payout_sent", "Payout sent"),
                    ("payout_failed", "Payout failed"),
                    ("clawback", "Payout taken back"),
                    ("invoice_paid", "Invoice paid"),
                    ("promo", "Promotion"),
                    ("credit", "Credit"),
                    ("adjustment", "Adjustment"),
                    ("fee", "Fee"),
                    ("write_off", "Written off"),
                    ("recovery", "Written-off invoice paid"),
                ],
                max_length=16,
            ),
        ),
        migrations.AddConstraint(
            model_name="adjustment",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("invoice__isnull", False), ("kind", "write_off")),
                    models.Q(models.Q(("kind", "write_off"), _negated=True), ("invoice", None)),
                    _connector="OR",
                ),
                name="billing_adjustment_invoice",
            ),
        ),
        migrations.AddConstraint(
            model_name="adjustment",
            constraint=models.UniqueConstraint(
                condition=models.Q(("state__in", ["pending", "posted"])),
                fields=("invoice",),
                name="billing_write_off_once",
            ),
        ),
        migrations.AddConstraint(
            model_name="invoice",
            constraint=models.CheckConstraint(
                condition=models.Q(("written_off_nanos__gte", 0)),
                name="billing_invoice_written_off",
            ),
        ),
        migrations.RunSQL([(SQL / "adjustments.sql").read_text()], migrations.RunSQL.noop),
    ]
