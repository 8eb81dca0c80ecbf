"""Transfers lock accounts without their keys: rows that only refer to them do not wait."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("billing", "0021_dispute_of_invoice")]  # noqa: RUF012
    operations = [  # noqa: RUF012
        migrations.RunSQL([(SQL / name).read_text()], migrations.RunSQL.noop)
        for name in ("ledger.sql", "adjustments.sql")
    ]
