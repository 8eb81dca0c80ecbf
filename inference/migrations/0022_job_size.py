from pathlib import Path

from django.db import migrations

FOLDER = Path(__file__).resolve().parent.parent / "sql"
# What waits, and what may be waited for.
SQL = [(FOLDER / name).read_text() for name in ("job_size.sql", "wake.sql")]


class Migration(migrations.Migration):
    dependencies = [("inference", "0021_warm_hours")]

    operations = [migrations.RunSQL(SQL, migrations.RunSQL.noop)]
