"""The schema has a number, so that no process starts on one that it was not made for."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("marketplace", "0015_batch_notices")]  # noqa: RUF012
    operations = [  # noqa: RUF012
        migrations.RunSQL(
            [(SQL / "schema_number.sql").read_text()], "DROP TABLE marketplace_schemanumber"
        )
    ]
