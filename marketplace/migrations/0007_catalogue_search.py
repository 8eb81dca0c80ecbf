# Apart from the tables: rows are filled in here, and what adds constraints must be over by then.

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"
UNDO = """
DROP TRIGGER marketplace_aimodel_entry ON marketplace_aimodel;
DROP TRIGGER marketplace_channel_entry ON marketplace_channel;
DROP TRIGGER marketplace_modelversion_entry ON marketplace_modelversion;
DROP TRIGGER marketplace_account_entry ON marketplace_account;
DROP FUNCTION marketplace_entry_of_model(), marketplace_entry_of_channel(),
    marketplace_entry_of_version(), marketplace_entries_of_account(),
    marketplace_refresh_entries(uuid[]), marketplace_search_query(text[]);
"""


class Migration(migrations.Migration):
    dependencies = [
        ("marketplace", "0006_catalogue"),
    ]

    operations = [
        migrations.RunSQL((SQL / "catalogue.sql").read_text(), UNDO),
    ]
