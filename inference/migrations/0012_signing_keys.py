"""Signing keys are trusted one by one; those that were in use before stay trusted."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("inference", "0011_extraction"),
    ]

    operations = [
        migrations.AddField(
            model_name="signingkey",
            name="registered_by",
            field=models.CharField(blank=True, default="", max_length=320),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="signingkey",
            name="registered_session",
            field=models.CharField(blank=True, default="", editable=False, max_length=64),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="signingkey",
            name="confirmed_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="signingkey",
            name="confirmed_by",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="signingkey",
            name="trusted_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="signingkey",
            name="mailed_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        # Reviewers have approved what these signed; nobody needs a mail about them any more.
        migrations.RunSQL(
            "UPDATE inference_signingkey SET trusted_at = created_at, mailed_at = created_at",
            migrations.RunSQL.noop,
        ),
    ]
