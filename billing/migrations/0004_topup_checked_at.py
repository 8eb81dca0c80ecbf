from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("billing", "0003_guards")]
    operations = [  # noqa: RUF012
        migrations.AddField("topup", "checked_at", models.DateTimeField(null=True, blank=True)),
    ]
