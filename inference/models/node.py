"""Where versions run: nodes, deployments (a version that should run) and replicas."""

from __future__ import annotations

from django.db import models

from marketplace.core.clock import utc_now
from marketplace.core.ids import new_id

# Gateways tell twice a minute what is used, what still runs among it: a version that is idle for
# a whole minute runs nothing.
IDLE_AFTER_MIN_S = 60
# Who wants a version kept longer than a week without a call wants it kept for ever.
IDLE_AFTER_MAX_S = 7 * 24 * 3600


# Of nodes whose token was for none.
POOL_DEFAULT = "default"


class NodeJoinToken(models.Model):
    """A secret with which nodes join at the key broker; stored as a digest.

    One for a name makes one node. One for a pool makes nodes of whatever names, up to a number:
    machines that come and go by themselves all hold the same. Only the schema's owner makes
    one, and only the broker uses it up: the web can do neither.
    """

    digest = models.BinaryField(max_length=32, unique=True)
    # Empty in one for a pool.
    name = models.CharField(max_length=63, blank=True)
    pool = models.CharField(max_length=63, default=POOL_DEFAULT, db_default=POOL_DEFAULT)
    use_count_max = models.PositiveIntegerField(default=1, db_default=1)
    # Of one for a pool; one for a name is used up when it has been used at all.
    use_count = models.PositiveIntegerField(default=0, db_default=0)
    revoked_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)
    # The node that it last made.
    node_id = models.UUIDField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(name="") | models.Q(use_count_max=1),
                name="inference_join_token_of_a_name_once",
            ),
            models.CheckConstraint(
                condition=models.Q(use_count__lte=models.F("use_count_max")),
                name="inference_join_token_uses",
            ),
        ]

    def __str__(self) -> str:
        return self.name or f"pool {self.pool}"

    @property
    def is_used_up(self) -> bool:
        """Whether it lets nobody new in."""
        if self.name:
            return self.used_at is not None
        return self.use_count >= self.use_count_max


class Node(models.Model):
    """One Triton server and its agent. What the web knows of it gives no right to a key."""

    # The id in the certificate that the key broker issued.
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    name = models.CharField(max_length=63)
    public_key = models.CharField("public key (base64)", max_length=64)
    token_digest = models.BinaryField(max_length=32, unique=True)
    triton_http_url = models.CharField(max_length=200)
    triton_grpc_url = models.CharField(max_length=200)
    triton_metrics_url = models.CharField(max_length=200, blank=True)
    triton_ready = models.BooleanField(default=False)
    info = models.JSONField(default=dict, blank=True)
    enrolled_at = models.DateTimeField(auto_now_add=True)
    last_seen_at = models.DateTimeField(null=True, blank=True)
    # Since when its reports have come without a gap.
    heard_since = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    # As its join token had it.
    pool = models.CharField(max_length=63, default=POOL_DEFAULT, db_default=POOL_DEFAULT)
    # It said goodbye, or was of a pool and has long been silent. A report takes that back.
    left_at = models.DateTimeField(null=True, blank=True)
    # From then on it takes no new jobs, and finishes those that it has.
    drain_requested_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            # One that was replaced keeps its name, and its past.
            models.UniqueConstraint(
                fields=["name"],
                condition=models.Q(revoked_at=None),
                name="inference_one_node_of_a_name",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Deployment(models.Model):
    """A version that should run, on how many nodes, and what happens while nobody wants it."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    version = models.ForeignKey(
        "marketplace.ModelVersion", models.PROTECT, related_name="deployments"
    )
    replica_count = models.PositiveSmallIntegerField(default=1)
    # On top of those, for as long as its load asks for them. Never below 0, which is not a
    # constraint: adding one reads the whole table.
    load_replica_count = models.SmallIntegerField(default=0, db_default=0)
    created_at = models.DateTimeField(auto_now_add=True)
    stopped_at = models.DateTimeField(null=True, blank=True)
    # Seconds without a call after which it is unloaded; null for never.
    idle_after_s = models.PositiveIntegerField(null=True, blank=True)
    is_always_warm = models.BooleanField(default=False)
    # What an hour of that costs: what it cost when it was chosen. 0 for nothing.
    warm_hour_nanos = models.BigIntegerField(null=True, blank=True)
    # The first full hour of UTC that is neither charged nor let pass yet.
    next_warm_hour_at = models.DateTimeField(null=True, blank=True)
    last_wanted_at = models.DateTimeField(default=utc_now)
    # Since when it is unloaded because nobody wanted it.
    slept_at = models.DateTimeField(null=True, blank=True)
    # Since when it is being loaded again; null as soon as a replica is ready.
    waking_since = models.DateTimeField(null=True, blank=True)
    # How long that took the last time, from the wish to the first ready replica.
    cold_start_ms = models.PositiveIntegerField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["version"],
                condition=models.Q(stopped_at=None),
                name="inference_one_active_deployment",
            ),
            models.CheckConstraint(
                condition=models.Q(idle_after_s=None)
                | models.Q(idle_after_s__range=(IDLE_AFTER_MIN_S, IDLE_AFTER_MAX_S)),
                name="inference_idle_after_range",
            ),
            models.CheckConstraint(
                condition=models.Q(warm_hour_nanos=None) | models.Q(warm_hour_nanos__gte=0),
                name="inference_warm_hour_not_negative",
            ),
            # What costs something is charged from a known hour on.
            models.CheckConstraint(
                condition=models.Q(is_always_warm=False)
                | models.Q(warm_hour_nanos=None)
                | models.Q(warm_hour_nanos=0)
                | models.Q(next_warm_hour_at__isnull=False),
                name="inference_warm_hour_begins",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.version} x {self.replica_count}"


class Replica(models.Model):
    """A copy of a version on a node: what we want of it, and what the node last said."""

    class Purpose(models.TextChoices):
        SCAN = "scan", "Scan (onboarding)"
        SERVE = "serve", "Serve"

    class State(models.TextChoices):
        ASSIGNED = "assigned", "Assigned"
        FETCHING = "fetching", "Fetching"
        STARTING = "starting", "Starting"
        DECRYPTING = "decrypting", "Decrypting"
        VALIDATING = "validating", "Validating"
        LOADING = "loading", "Loading"
        WARMING = "warming", "Warming"
        READY = "ready", "Ready"
        FAILED = "failed", "Failed"
        UNLOADING = "unloading", "Unloading"
        UNLOADED = "unloaded", "Unloaded"
        LOST = "lost", "Lost"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    version = models.ForeignKey("marketplace.ModelVersion", models.PROTECT, related_name="replicas")
    deployment = models.ForeignKey(
        Deployment, models.PROTECT, null=True, blank=True, related_name="replicas"
    )
    node = models.ForeignKey(Node, models.PROTECT, related_name="replicas")
    purpose = models.CharField(max_length=8, choices=Purpose)
    wanted = models.BooleanField(default=True)
    state = models.CharField(max_length=16, choices=State, default=State.ASSIGNED)
    progress = models.FloatField(default=0)
    reason_code = models.CharField(max_length=64, blank=True)
    detail = models.TextField(blank=True)
    # What the loader reported: {"validation": {...}, "load": {...}, "canary": {...}}.
    report = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["node"], name="inference_replica_wanted", condition=models.Q(wanted=True)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.version} on {self.node} ({self.state})"

    @property
    def triton_name(self) -> str:
        """The model's name in Triton: ours, never text of a user."""
        return f"r{self.id.hex}"


class ReplicaWork(models.Model):
    """Something a node should do with a loaded replica, once: test it or benchmark it."""

    class Kind(models.TextChoices):
        TEST = "test", "Test"
        BENCHMARK = "benchmark", "Benchmark"

    class State(models.TextChoices):
        WAITING = "waiting", "Waiting"
        SUCCEEDED = "succeeded", "Succeeded"
        FAILED = "failed", "Failed"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    replica = models.ForeignKey(Replica, models.CASCADE, related_name="work")
    kind = models.CharField(max_length=16, choices=Kind)
    state = models.CharField(max_length=16, choices=State, default=State.WAITING)
    reason_code = models.CharField(max_length=64, blank=True)
    result = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["replica", "kind"], name="inference_work_once"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.state}"
