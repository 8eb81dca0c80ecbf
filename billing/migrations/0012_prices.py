"""Prices of what is metered, with quotas, tiers, offers, coupons and shares by creator."""

from pathlib import Path

import django.contrib.postgres.constraints
import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import billing.models.price
import marketplace.core.ids

SQL = Path(__file__).resolve().parent.parent / "sql"
# It takes what was metered now, and says what was charged.
DROP = """
    DROP FUNCTION IF EXISTS
        billing_settle(jsonb, uuid[], integer[], integer[], bigint[], timestamptz[]);
    DROP FUNCTION IF EXISTS
        billing_settle(jsonb, uuid[], integer[], integer[], bigint[], timestamptz[], jsonb);
"""


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0011_more_accounts"),
        ("marketplace", "0004_query_budget"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Coupon",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=marketplace.core.ids.new_id,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("code", models.CharField(max_length=32, unique=True)),
                ("credit_nanos", models.BigIntegerField(blank=True, null=True)),
                ("off_bps", models.PositiveSmallIntegerField(blank=True, null=True)),
                ("days", models.PositiveSmallIntegerField(blank=True, null=True)),
                ("uses_max", models.PositiveIntegerField()),
                ("uses", models.PositiveIntegerField(default=0)),
                ("valid_until", models.DateTimeField()),
                ("ended_at", models.DateTimeField(blank=True, null=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
            ],
        ),
        migrations.CreateModel(
            name="CouponRedemption",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=marketplace.core.ids.new_id,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("redeemed_by", models.CharField(max_length=200)),
                ("redeemed_at", models.DateTimeField(auto_now_add=True)),
            ],
        ),
        migrations.CreateModel(
            name="CreatorTerms",
            fields=[
                (
                    "account",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        primary_key=True,
                        related_name="creator_terms",
                        serialize=False,
                        to="marketplace.account",
                    ),
                ),
                ("creator_share_bps", models.PositiveSmallIntegerField()),
                ("set_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "verbose_name_plural": "creator terms",
            },
        ),
        migrations.CreateModel(
            name="UsageCounter",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("starts_on", models.DateField()),
                ("units", models.BigIntegerField()),
            ],
        ),
        migrations.RemoveConstraint(
            model_name="price",
            name="billing_price_not_negative",
        ),
        migrations.RemoveConstraint(
            model_name="price",
            name="billing_price_no_overlap",
        ),
        migrations.AddField(
            model_name="price",
            name="account",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="price_offers",
                to="marketplace.account",
            ),
        ),
        migrations.AddField(
            model_name="price",
            name="free_units",
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name="price",
            name="minimum_nanos",
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name="price",
            name="rates",
            field=models.JSONField(
                blank=True,
                db_default=models.Value({}, output_field=models.JSONField()),
                default=dict,
            ),
        ),
        migrations.AddField(
            model_name="price",
            name="tiers",
            field=models.JSONField(
                blank=True,
                db_default=models.Value([], output_field=models.JSONField()),
                default=list,
            ),
        ),
        migrations.AddField(
            model_name="price",
            name="mailed_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="price",
            name="max_units",
            field=models.JSONField(
                blank=True,
                db_default=models.Value({}, output_field=models.JSONField()),
                default=dict,
            ),
        ),
        migrations.AddField(
            model_name="usageevent",
            name="metered",
            field=models.JSONField(null=True),
        ),
        migrations.AddField(
            model_name="usageevent",
            name="position",
            field=models.BigIntegerField(null=True),
        ),
        migrations.AddConstraint(
            model_name="price",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("free_units__gte", 0),
                    ("minimum_nanos__gte", 0),
                    ("nanos_per_prediction__gte", 0),
                ),
                name="billing_price_not_negative",
            ),
        ),
        migrations.AddConstraint(
            model_name="price",
            constraint=django.contrib.postgres.constraints.ExclusionConstraint(
                condition=models.Q(("account", None)),
                expressions=[
                    (models.F("model"), "="),
                    (
                        billing.models.price.ValidRange(
                            models.F("valid_from"), models.F("valid_until")
                        ),
                        "&&",
                    ),
                ],
                name="billing_price_no_overlap",
            ),
        ),
        migrations.AddConstraint(
            model_name="price",
            constraint=django.contrib.postgres.constraints.ExclusionConstraint(
                condition=models.Q(("account__isnull", False)),
                expressions=[
                    (models.F("model"), "="),
                    (models.F("account"), "="),
                    (
                        billing.models.price.ValidRange(
                            models.F("valid_from"), models.F("valid_until")
                        ),
                        "&&",
                    ),
                ],
                name="billing_offer_no_overlap",
            ),
        ),
        migrations.AddField(
            model_name="coupon",
            name="created_by",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="coupon",
            name="model",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="coupons",
                to="marketplace.aimodel",
            ),
        ),
        migrations.AddField(
            model_name="couponredemption",
            name="account",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="coupon_redemptions",
                to="marketplace.account",
            ),
        ),
        migrations.AddField(
            model_name="couponredemption",
            name="coupon",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="redemptions",
                to="billing.coupon",
            ),
        ),
        migrations.AddField(
            model_name="couponredemption",
            name="price",
            field=models.OneToOneField(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="billing.price",
            ),
        ),
        migrations.AddField(
            model_name="couponredemption",
            name="transfer",
            field=models.OneToOneField(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="billing.transfer",
            ),
        ),
        migrations.AddField(
            model_name="creatorterms",
            name="set_by",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="usagecounter",
            name="account",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="marketplace.account",
            ),
        ),
        migrations.AddField(
            model_name="usagecounter",
            name="model",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="marketplace.aimodel",
            ),
        ),
        migrations.AddField(
            model_name="price",
            name="is_plain",
            field=models.GeneratedField(
                db_persist=True,
                expression=models.Q(
                    ("free_units", models.Value(0)),
                    ("minimum_nanos", models.Value(0)),
                    ("rates", models.Value({}, output_field=models.JSONField())),
                    ("tiers", models.Value([], output_field=models.JSONField())),
                ),
                output_field=models.BooleanField(),
            ),
        ),
        migrations.AddConstraint(
            model_name="coupon",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(
                        ("credit_nanos__gt", 0),
                        ("days__isnull", True),
                        ("model__isnull", True),
                        ("off_bps__isnull", True),
                    ),
                    models.Q(
                        ("credit_nanos__isnull", True),
                        ("days__gt", 0),
                        ("model__isnull", False),
                        ("off_bps__gt", 0),
                        ("off_bps__lt", 10000),
                    ),
                    _connector="OR",
                ),
                name="billing_coupon_kind",
            ),
        ),
        migrations.AddConstraint(
            model_name="coupon",
            constraint=models.CheckConstraint(
                condition=models.Q(("uses__lte", models.F("uses_max"))), name="billing_coupon_uses"
            ),
        ),
        migrations.AddConstraint(
            model_name="couponredemption",
            constraint=models.UniqueConstraint(
                fields=("coupon", "account"), name="billing_coupon_once_per_account"
            ),
        ),
        migrations.AddConstraint(
            model_name="creatorterms",
            constraint=models.CheckConstraint(
                condition=models.Q(("creator_share_bps__lte", 10000)),
                name="billing_creator_terms_share",
            ),
        ),
        migrations.AddConstraint(
            model_name="usagecounter",
            constraint=models.UniqueConstraint(
                fields=("account", "model", "starts_on"), name="billing_usage_counter_once"
            ),
        ),
        migrations.RunSQL([DROP], migrations.RunSQL.noop),
        *(
            migrations.RunSQL([(SQL / name).read_text()], migrations.RunSQL.noop)
            for name in ("price_guard.sql", "price_terms.sql", "rating.sql", "usage.sql")
        ),
    ]
