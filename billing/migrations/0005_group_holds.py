from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("billing", "0004_topup_checked_at")]
    operations = [  # noqa: RUF012
        migrations.RunSQL([(SQL / "holds.sql").read_text()], migrations.RunSQL.noop),
    ]
