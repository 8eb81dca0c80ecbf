"""Numbers of models and nodes over time, rolled up per minute, hour and day.

Rows are written by workers alone (`inference.services.metric`); pages read only these.
"""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models

from inference.models.node import Node


class Resolution(models.TextChoices):
    MINUTE = "minute", "Minute"
    HOUR = "hour", "Hour"
    DAY = "day", "Day"


def _array() -> ArrayField:
    return ArrayField(models.IntegerField(), default=list)


def _sum() -> models.BigIntegerField:
    return models.BigIntegerField(default=0)


class Metric(models.Model):
    """What one version did in one span of time."""

    id = models.BigAutoField(primary_key=True)
    # Without foreign keys, which would be checked for each row: a version that ran stays.
    model_id = models.UUIDField()
    version_id = models.UUIDField()
    resolution = models.CharField(max_length=6, choices=Resolution)
    starts_at = models.DateTimeField()

    # Of the predictions that are booked or recorded, by the moment they arrived.
    predictions = _sum()
    succeeded = _sum()
    canceled = _sum()
    failed_input = _sum()
    failed_model = _sum()
    failed_timeout = _sum()
    failed_capacity = _sum()
    failed_platform = _sum()
    rows = _sum()
    gross_nanos = _sum()
    creator_nanos = _sum()
    # From arrival to answer, of the successes; see `inference.core.histogram`.
    latency_buckets = _array()
    latency_counts = _array()

    # Read from the gateways' counters, with the gateways' own edges.
    refused_input = _sum()
    refused_limit = _sum()
    refused_credit = _sum()
    refused_capacity = _sum()
    queue_buckets = _array()
    queue_counts = _array()
    first_token_buckets = _array()
    first_token_counts = _array()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["model_id", "resolution", "starts_at", "version_id"],
                name="inference_metric_once",
            ),
        ]
        indexes = [
            models.Index(fields=["resolution", "starts_at"], name="inference_metric_age"),
        ]

    def __str__(self) -> str:
        return f"{self.version_id} {self.resolution} {self.starts_at}"


class ConsumerMetric(models.Model):
    """What one account asked of one model in one span of time."""

    id = models.BigAutoField(primary_key=True)
    model_id = models.UUIDField()
    account_id = models.UUIDField()
    resolution = models.CharField(max_length=6, choices=Resolution)
    starts_at = models.DateTimeField()
    predictions = _sum()
    failed = _sum()
    gross_nanos = _sum()
    creator_nanos = _sum()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["model_id", "resolution", "starts_at", "account_id"],
                name="inference_consumer_metric_once",
            ),
        ]
        indexes = [
            models.Index(fields=["resolution", "starts_at"], name="inference_consumer_metric_age"),
        ]

    def __str__(self) -> str:
        return f"{self.model_id} {self.account_id} {self.resolution} {self.starts_at}"


class NodeMetric(models.Model):
    """How full one node was; of a GPU only where the node reports one."""

    id = models.BigAutoField(primary_key=True)
    node = models.ForeignKey(Node, models.CASCADE, related_name="+", db_index=False)
    resolution = models.CharField(max_length=6, choices=Resolution)
    starts_at = models.DateTimeField()
    samples = models.IntegerField(default=0)
    memory_used_bytes_sum = _sum()
    memory_total_bytes = _sum()
    gpu_samples = models.IntegerField(default=0)
    gpu_busy_bps_sum = _sum()
    gpu_memory_used_bytes_sum = _sum()
    gpu_memory_total_bytes = _sum()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["node", "resolution", "starts_at"], name="inference_node_metric_once"
            ),
        ]
        indexes = [
            models.Index(fields=["resolution", "starts_at"], name="inference_node_metric_age"),
        ]

    def __str__(self) -> str:
        return f"{self.node_id} {self.resolution} {self.starts_at}"


class MetricCursor(models.Model):
    """How far a pass over the predictions has come."""

    name = models.CharField(max_length=16, primary_key=True)
    reached_at = models.DateTimeField()
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return f"{self.name} {self.reached_at}"


class GatewayCounter(models.Model):
    """What the counters of one gateway process said when they were last read."""

    # The address, and when the process was started: another process counts from zero.
    process = models.CharField(max_length=255, primary_key=True)
    counters = models.JSONField(default=dict)
    seen_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.process
