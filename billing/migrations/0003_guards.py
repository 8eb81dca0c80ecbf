"""Functions and triggers of this package; their text is in ../sql/."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"
FILES = ["ledger.sql", "balance.sql", "price_guard.sql", "guards.sql"]


class Migration(migrations.Migration):
    dependencies = [("marketplace", "0002_guards"), ("billing", "0002_initial")]
    operations = [  # noqa: RUF012
        # As text without parameters: the SQL holds percent signs of its own.
        migrations.RunSQL([(SQL / name).read_text()], migrations.RunSQL.noop)
        for name in FILES
    ]
