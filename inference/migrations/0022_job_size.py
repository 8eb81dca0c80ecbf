from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql" / "job_size.sql"


class Migration(migrations.Migration):
    dependencies = [("inference", "0020_batches")]

    operations = [migrations.RunSQL([SQL.read_text()], migrations.RunSQL.noop)]
