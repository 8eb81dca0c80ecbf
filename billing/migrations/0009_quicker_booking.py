"""The functions that book, with plans that are kept and every look-up by an index."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("billing", "0008_budget_alert")]
    operations = [  # noqa: RUF012
        migrations.RunSQL([(SQL / name).read_text()], migrations.RunSQL.noop)
        for name in ("ledger.sql", "holds.sql", "usage.sql")
    ]
