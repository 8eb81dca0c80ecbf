from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("inference", "0004_kept_predictions")]

    operations = [
        migrations.AddField(
            model_name="node",
            name="heard_since",
            field=models.DateTimeField(blank=True, null=True),
        ),
    ]
