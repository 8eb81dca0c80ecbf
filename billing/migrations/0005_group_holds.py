from django.db import migrations


class Migration(migrations.Migration):
    """It made functions that 0007 makes anew."""

    dependencies = [("billing", "0004_topup_checked_at")]
    operations = []  # noqa: RUF012
