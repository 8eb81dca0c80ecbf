"""The queue of predictions that run later: what waits, what a node has taken, how it ended.

These tables are written by the functions of ../sql/jobs.sql alone, so that a job, its money and its
prediction change together. A job has the id of its prediction.
"""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

# How many of an account's jobs of a version are offered to nodes at once, running ones among them.
OFFERED_MAX = 64
_LEASED = ("leased", "running")


class Job(models.Model):
    """A prediction that is to run when a node has a place for it."""

    class State(models.TextChoices):
        QUEUED = "queued", "Queued"
        LEASED = "leased", "Leased"
        RUNNING = "running", "Running"
        SUCCEEDED = "succeeded", "Succeeded"
        FAILED = "failed", "Failed"
        CANCELED = "canceled", "Canceled"
        # No node could run it. To its account it has failed; an admin may run it again.
        DEAD = "dead", "Dead"

    class Priority(models.IntegerChoices):
        HIGH = 0, "High"
        NORMAL = 1, "Normal"
        BATCH = 2, "Batch"

    id = models.UUIDField(primary_key=True, editable=False)
    account_id = models.UUIDField()
    api_key_id = models.UUIDField(null=True)
    version = models.ForeignKey(
        "marketplace.ModelVersion",
        models.PROTECT,
        related_name="+",
        db_constraint=False,
        db_index=False,
    )
    creator_id = models.UUIDField()
    price_id = models.UUIDField(null=True)
    mode = models.CharField(max_length=8, db_default="live")
    source = models.CharField(max_length=8, db_default="api")
    protocol = models.CharField(max_length=16, db_default="native")
    tag = models.CharField(max_length=64, db_default="")
    priority = models.SmallIntegerField(choices=Priority, db_default=Priority.NORMAL)
    state = models.CharField(max_length=16, choices=State, db_default=State.QUEUED)
    rows = models.PositiveIntegerField(db_default=1)
    # The most that it can cost, which its hold reserves; what it did cost.
    gross_nanos = models.BigIntegerField(db_default=0)
    hold_id = models.UUIDField(null=True)
    cost_nanos = models.BigIntegerField(db_default=0)
    # Whether its price is worked out from what was metered, by which most.
    is_rated = models.BooleanField(db_default=False)
    metered = models.JSONField(null=True)
    # How long it will probably run: what its account's turn is reckoned by.
    expected_ms = models.PositiveIntegerField(db_default=1000)
    # Whether nodes may take it. Of each account only so many at once; see OFFERED_MAX.
    is_offered = models.BooleanField(db_default=False)
    # Its place among those on offer, the earliest first.
    rank_at = models.DateTimeField(null=True)
    ready_at = models.DateTimeField()
    deadline_at = models.DateTimeField()
    attempt = models.PositiveSmallIntegerField(db_default=0)
    attempts_max = models.PositiveSmallIntegerField(db_default=3)
    lease_node_id = models.UUIDField(null=True)
    lease_slot = models.PositiveSmallIntegerField(null=True)
    # Grows with each lease: who comes with an older one has lost the job.
    lease_epoch = models.BigIntegerField(db_default=0)
    leased_at = models.DateTimeField(null=True)
    lease_until = models.DateTimeField(null=True)
    # Where it failed last: another node is tried first.
    failed_node_id = models.UUIDField(null=True)
    cancel_requested_at = models.DateTimeField(null=True)
    error = models.CharField(max_length=64, db_default="")
    detail = models.TextField(db_default="")
    predict_time_us = models.BigIntegerField(db_default=0)
    # Told of it besides the account's own endpoints; empty for nobody.
    webhook_url = models.TextField(db_default="")
    webhook_events = ArrayField(models.CharField(max_length=32), db_default=[])
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(gross_nanos__gte=0), name="inference_job_gross"),
            models.CheckConstraint(
                condition=~Q(state__in=_LEASED) | Q(lease_node_id__isnull=False),
                name="inference_job_lease",
            ),
            # A slot runs one job.
            models.UniqueConstraint(
                fields=["lease_node_id", "lease_slot"],
                condition=Q(state__in=_LEASED),
                name="inference_job_slot",
            ),
        ]
        indexes = [
            # What a node looks for.
            models.Index(
                fields=["version", "rank_at", "deadline_at"],
                name="inference_job_offered",
                condition=Q(state="queued", is_offered=True),
            ),
            # Whose turn it is when one of an account's jobs has ended.
            models.Index(
                fields=["account_id", "version", "priority", "id"],
                name="inference_job_parked",
                condition=Q(state="queued", is_offered=False),
            ),
            models.Index(
                fields=["deadline_at"],
                name="inference_job_deadline",
                condition=Q(state="queued"),
            ),
            # Not by the end of the lease, which each heartbeat moves: they are few.
            models.Index(
                fields=["id"], name="inference_job_leased", condition=Q(state__in=_LEASED)
            ),
            models.Index(
                fields=["finished_at"],
                name="inference_job_finished",
                condition=Q(finished_at__isnull=False),
            ),
            models.Index(fields=["account_id", "-id"], name="inference_job_account"),
        ]

    def __str__(self) -> str:
        return str(self.id)


class JobInput(models.Model):
    """What a job is run on. Beside it, so that the queue's own rows stay small; gone at its end."""

    job = models.OneToOneField(
        Job, models.CASCADE, primary_key=True, related_name="input", db_constraint=False
    )
    input = models.JSONField()

    def __str__(self) -> str:
        return str(self.job_id)


class JobFlow(models.Model):
    """How many jobs of a version an account has on offer, and how many behind these."""

    account_id = models.UUIDField()
    version = models.ForeignKey(
        "marketplace.ModelVersion",
        models.CASCADE,
        related_name="+",
        db_constraint=False,
        db_index=False,
    )
    offered_count = models.IntegerField(db_default=0)
    parked_count = models.IntegerField(db_default=0)
    offered_max = models.PositiveIntegerField(db_default=OFFERED_MAX)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["account_id", "version"], name="inference_jobflow_once"
            ),
            models.CheckConstraint(
                condition=Q(offered_count__gte=0, parked_count__gte=0),
                name="inference_jobflow_counts",
            ),
        ]
        indexes = [
            # Nobody is to wait behind who has gone.
            models.Index(
                fields=["id"],
                name="inference_jobflow_waiting",
                condition=Q(parked_count__gt=0),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.account_id} {self.version_id}"


class JobClock(models.Model):
    """How far an account's turn has come: each of its jobs moves it by the time that it takes."""

    account_id = models.UUIDField(primary_key=True)
    virtual_at = models.DateTimeField()

    def __str__(self) -> str:
        return str(self.account_id)


class JobPace(models.Model):
    """How long a version's jobs take: a mean in which the newest count most."""

    version = models.OneToOneField(
        "marketplace.ModelVersion",
        models.CASCADE,
        primary_key=True,
        related_name="+",
        db_constraint=False,
    )
    mean_us = models.BigIntegerField()
    job_count = models.BigIntegerField(db_default=1)

    def __str__(self) -> str:
        return f"{self.version_id} {self.mean_us} us"


class JobAttempt(models.Model):
    """One lease of a job that is over, and how it ended. Never changed."""

    job_id = models.UUIDField()
    epoch = models.BigIntegerField()
    node_id = models.UUIDField()
    leased_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField()
    outcome = models.CharField(max_length=16)
    code = models.CharField(max_length=64, blank=True)
    detail = models.TextField(blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["job_id", "epoch"], name="inference_jobattempt_once"),
        ]
        indexes = [models.Index(fields=["ended_at"], name="inference_jobattempt_age")]

    def __str__(self) -> str:
        return f"{self.job_id} {self.epoch} {self.outcome}"


class FinishedJob(models.Model):
    """What is left of a job when it is out of the queue: how it was run, not what it said."""

    id = models.UUIDField(primary_key=True, editable=False)
    account_id = models.UUIDField()
    version_id = models.UUIDField()
    state = models.CharField(max_length=16, choices=Job.State)
    priority = models.SmallIntegerField(choices=Job.Priority)
    attempt = models.PositiveSmallIntegerField()
    node_id = models.UUIDField(null=True)
    error = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField()
    # It was dead, and an admin has given it up.
    discarded_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["finished_at"], name="inference_finishedjob_age"),
            models.Index(
                fields=["-discarded_at"],
                name="inference_finishedjob_given_up",
                condition=Q(discarded_at__isnull=False),
            ),
            models.Index(fields=["account_id", "-id"], name="inference_finishedjob_account"),
        ]

    def __str__(self) -> str:
        return str(self.id)
