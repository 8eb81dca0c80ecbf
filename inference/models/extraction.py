"""What is known of how models are asked: counts, a few embeddings, and what follows from them."""

from __future__ import annotations

from django.db import models

from marketplace.models import Account, AIModel, User


class QuerySketch(models.Model):
    """How many different inputs a consumer has asked a model's versions; gateways write it."""

    class Period(models.TextChoices):
        DAY = "day", "Day"
        TOTAL = "total", "In all"

    id = models.BigAutoField(primary_key=True)
    # Without checks per row: one that is gone must not keep the counts of others from being kept.
    account = models.ForeignKey(Account, models.CASCADE, related_name="+", db_constraint=False)
    model = models.ForeignKey(
        AIModel, models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    period = models.CharField(max_length=5, choices=Period)
    # The day, in UTC; 1970-01-01 for all time.
    starts_on = models.DateField()
    # Of a HyperLogLog; empty before the first count.
    registers = models.BinaryField(default=b"")
    estimate = models.FloatField(default=0)
    # With every repetition.
    row_count = models.BigIntegerField(default=0)
    # Grows with every change of the registers, so that gateways fetch them only then.
    revision = models.BigIntegerField(default=0)
    updated_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["model", "account", "period", "starts_on"],
                name="inference_query_sketch_once",
            ),
        ]
        indexes = [
            models.Index(
                fields=["starts_on"],
                name="inference_query_sketch_age",
                condition=models.Q(period="day"),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.account_id} {self.model_id} {self.period} {self.starts_on}"


class QueryBudget(models.Model):
    """What one consumer may ask a model, in the place of what the model lets everybody."""

    id = models.BigAutoField(primary_key=True)
    account = models.ForeignKey(Account, models.CASCADE, related_name="+")
    model = models.ForeignKey(AIModel, models.CASCADE, related_name="+", db_index=False)
    # Empty is no budget.
    queries_per_day_max = models.PositiveIntegerField(null=True, blank=True)
    queries_total_max = models.PositiveIntegerField(null=True, blank=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["model", "account"], name="inference_query_budget_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.account} on {self.model}"


class QuerySample(models.Model):
    """One of many inputs, as an embedding from which it cannot be made again."""

    id = models.BigAutoField(primary_key=True)
    account = models.ForeignKey(
        Account, models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    model = models.ForeignKey(
        AIModel, models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    # 64 numbers of half precision, see `inference.core.query_embedding`.
    embedding = models.BinaryField(max_length=128)
    created_at = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(
                fields=["model", "account", "-created_at"], name="inference_query_sample_of"
            ),
            models.Index(fields=["created_at"], name="inference_query_sample_age"),
        ]

    def __str__(self) -> str:
        return str(self.pk)


class AbuseScore(models.Model):
    """How much a consumer's inputs look like copying, at one time. It never blocks anybody."""

    id = models.BigAutoField(primary_key=True)
    account = models.ForeignKey(Account, models.CASCADE, related_name="+")
    model = models.ForeignKey(AIModel, models.CASCADE, related_name="+", db_index=False)
    score = models.PositiveSmallIntegerField()
    # Why, in sentences; and the numbers behind them.
    reasons = models.JSONField(default=list)
    facts = models.JSONField(default=dict)
    created_at = models.DateTimeField()
    # Whether it is the newest of this consumer and model.
    is_current = models.BooleanField(default=True)
    reviewed_at = models.DateTimeField(null=True, blank=True)
    reviewed_by = models.ForeignKey(User, models.SET_NULL, null=True, blank=True, related_name="+")
    review_note = models.TextField(max_length=2000, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["model", "account"],
                condition=models.Q(is_current=True),
                name="inference_abuse_score_current",
            ),
        ]
        indexes = [
            models.Index(
                fields=["model", "account", "-created_at"], name="inference_abuse_score_of"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.account} on {self.model}: {self.score}"


class AbuseAlert(models.Model):
    """That a consumer's score has reached the threshold of notice: told once."""

    id = models.BigAutoField(primary_key=True)
    account = models.ForeignKey(Account, models.CASCADE, related_name="+")
    model = models.ForeignKey(AIModel, models.CASCADE, related_name="+", db_index=False)
    score = models.PositiveSmallIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)
    mailed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["model", "account"], name="inference_abuse_alert_once"),
        ]

    def __str__(self) -> str:
        return f"{self.account} on {self.model}: {self.score}"
