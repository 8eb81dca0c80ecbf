"""Earnings wait in a reserve; the ledger gets the accounts of all that money can do."""

from pathlib import Path

from django.db import migrations, models

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("billing", "0010_receipts")]  # noqa: RUF012
    operations = [  # noqa: RUF012
        migrations.AlterField(
            model_name="ledgeraccount",
            name="kind",
            field=models.CharField(
                choices=[
                    ("wallet", "Wallet"),
                    ("receivable", "Receivable"),
                    ("dispute_hold", "Held for a dispute"),
                    ("creator_reserve", "Creator reserve"),
                    ("creator_payable", "Creator payable"),
                    ("payout_in_flight", "Payout on its way"),
                    ("platform_revenue", "Platform revenue"),
                    ("stripe_clearing", "Stripe clearing"),
                    ("stripe_fee", "Fees of Stripe"),
                    ("refund_in_flight", "Refund on its way"),
                    ("dispute_loss", "Lost disputes"),
                    ("tax_payable", "Tax payable"),
                    ("promo_pool", "Promotions"),
                    ("goodwill", "Credits given"),
                    ("bad_debt", "Bad debt"),
                    ("rounding", "Rounding"),
                ],
                max_length=24,
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
                ],
                max_length=16,
            ),
        ),
        *(
            migrations.RunSQL([(SQL / name).read_text()], migrations.RunSQL.noop)
            for name in ("ledger.sql", "usage.sql", "usage_transfer.sql")
        ),
    ]
