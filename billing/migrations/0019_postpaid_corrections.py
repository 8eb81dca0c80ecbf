from pathlib import Path

from django.db import migrations, models

SQL = Path(__file__).resolve().parent.parent / "sql"
# Each account's reports, in the order in which their sums were carried on.
NUMBER = """
SET CONSTRAINTS ALL IMMEDIATE;
ALTER TABLE billing_meterreport DISABLE TRIGGER USER;
UPDATE billing_meterreport r SET number = n.number FROM (
    SELECT id, row_number() OVER (PARTITION BY account_id ORDER BY total_nanos) AS number
    FROM billing_meterreport
) n WHERE n.id = r.id;
ALTER TABLE billing_meterreport ENABLE TRIGGER USER;
"""
UNDO = "ALTER TABLE billing_usagereversal DROP COLUMN xid;"


class Migration(migrations.Migration):
    dependencies = [("billing", "0018_usage_tag")]

    operations = [
        migrations.AddField(
            model_name="meterreport",
            name="number",
            field=models.PositiveIntegerField(default=0),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="meterreport",
            name="reversed_nanos",
            field=models.BigIntegerField(default=0),
        ),
        migrations.AddField(
            model_name="meterreport",
            name="returned_nanos",
            field=models.BigIntegerField(default=0),
        ),
        migrations.AddField(
            model_name="meterreport",
            name="credit_nanos",
            field=models.BigIntegerField(default=0),
        ),
        migrations.RunSQL(NUMBER, migrations.RunSQL.noop),
        migrations.RemoveConstraint(model_name="meterreport", name="billing_meter_report_amounts"),
        migrations.AddConstraint(
            model_name="meterreport",
            constraint=models.UniqueConstraint(
                fields=("account", "number"), name="billing_meter_report_number"
            ),
        ),
        migrations.AddConstraint(
            model_name="meterreport",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("predictions", 0), ("usage_nanos", 0)),
                    models.Q(("predictions__gt", 0), ("usage_nanos__gt", 0)),
                    _connector="OR",
                ),
                name="billing_meter_report_amounts",
            ),
        ),
        migrations.AddConstraint(
            model_name="meterreport",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("returned_nanos__gte", 0),
                    ("reversed_nanos__gte", 0),
                    models.Q(
                        ("usage_nanos__gt", 0),
                        ("reversed_nanos__gt", 0),
                        ("returned_nanos__gt", 0),
                        _connector="OR",
                    ),
                ),
                name="billing_meter_report_something",
            ),
        ),
        migrations.AddConstraint(
            model_name="meterreport",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("credit_nanos", 0), ("value_micro__gte", 0)),
                    models.Q(("credit_nanos__gt", 0), ("value_micro", 0)),
                    _connector="OR",
                ),
                name="billing_meter_report_credit",
            ),
        ),
        migrations.RunSQL([(SQL / "postpaid.sql").read_text()], migrations.RunSQL.noop),
        migrations.RunSQL([(SQL / "postpaid_corrections.sql").read_text()], UNDO),
    ]
