"""The tag of a usage event, and the booking that writes it. No row is rewritten."""

from pathlib import Path

from django.db import migrations, models

SQL = Path(__file__).resolve().parent.parent / "sql"


class Migration(migrations.Migration):
    dependencies = [("billing", "0017_royalties")]

    operations = [
        migrations.AddField(
            model_name="usageevent",
            name="tag",
            field=models.CharField(blank=True, db_default="", default="", max_length=64),
        ),
        migrations.RunSQL([(SQL / "usage.sql").read_text()], migrations.RunSQL.noop),
    ]
