"""Every node with what it holds: the platform's map of its machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Min, Prefetch, Q, QuerySet

from inference.models import Deployment, Node, NodeIdentity, Replica, SigningKey
from inference.node_certificate import CERTIFICATE_TTL
from inference.selectors.node import CLOCK_AHEAD, CLOCK_OFF_S_MAX, ENDED_STATES, QUIET_AFTER
from marketplace.core.clock import utc_now

State = Replica.State

# One that ends sooner should have been renewed by now: nodes do when a third of its time is over.
CERTIFICATE_SOON = CERTIFICATE_TTL / 2
# What a time service keeps on any machine; beyond it the fleet page says so.
CLOCK_SHOWN_S = 10
# More nodes than this are looked at in a monitoring system.
NODES_SHOWN = 200
# A node that said goodbye is shown for as long: machines of pools come and go.
LEFT_SHOWN = timedelta(hours=1)
REPLICAS_SHOWN = 100


@dataclass(frozen=True, slots=True)
class FleetNode:
    """A node as the map shows it."""

    node: Node
    condition: str
    replicas: list[Replica]
    certificate_ends: datetime | None

    @property
    def is_good(self) -> bool:
        """Whether it serves."""
        return self.condition == "ready"

    @property
    def tone(self) -> str:
        """Of the badge: one that left did as it should."""
        return "info" if self.condition == "left" else "bad"

    @property
    def ready_count(self) -> int:
        """Replicas that serve now."""
        return sum(one.state == State.READY for one in self.replicas)

    @property
    def is_certificate_old(self) -> bool:
        """Whether its certificate ends soon, or has."""
        ends = self.certificate_ends
        return ends is not None and ends < utc_now() + CERTIFICATE_SOON

    @property
    def memory(self) -> tuple[int, int] | None:
        """Used and whole memory of the machine, as it last said."""
        whole = _read_count(self.node.info, "memory_total_bytes")
        free = _read_count(self.node.info, "memory_available_bytes")
        return (max(0, whole - free), whole) if whole and free is not None else None

    @property
    def disk_free_bytes(self) -> int | None:
        """What is left for ciphertext."""
        return _read_count(self.node.info, "disk_free_bytes")

    @property
    def cache_damage(self) -> int:
        """Parts of ciphertext that went bad on its disk, as it counts them."""
        cache = self.node.info.get("cache")
        return (_read_count(cache, "damage") if isinstance(cache, Mapping) else None) or 0

    @property
    def clock(self) -> str:
        """How far its clock is off, in words; empty where it is right or was not told."""
        ahead_s = read_clock_ahead_s(self.node)
        if abs(ahead_s) < CLOCK_SHOWN_S:
            return ""
        way = "ahead" if ahead_s > 0 else "behind"
        return f"{abs(ahead_s):,} s {way}"

    @property
    def cpu_count(self) -> int | None:
        """Its cores."""
        return _read_count(self.node.info, "cpu_count")


@dataclass(frozen=True, slots=True)
class FleetTotals:
    """The fleet in a few numbers."""

    nodes: int
    ready_nodes: int
    wanted_replicas: int
    ready_replicas: int
    deployments: int
    short_deployments: int


def list_fleet() -> list[FleetNode]:
    """Nodes that are here, with what they should hold, those in trouble first."""
    wanted = (
        Replica.objects.filter(wanted=True)
        .select_related("version__model__account")
        .order_by("state", "pk")
    )
    nodes = list(
        Node.objects.filter(revoked_at=None)
        .exclude(left_at__lt=utc_now() - LEFT_SHOWN)
        .prefetch_related(Prefetch("replicas", wanted, to_attr="wanted_replicas"))
        .order_by("name")[:NODES_SHOWN]
    )
    identities = NodeIdentity.objects.in_bulk([node.pk for node in nodes])
    found = [
        FleetNode(
            node=node,
            condition=describe_condition(node),
            replicas=node.wanted_replicas[:REPLICAS_SHOWN],
            certificate_ends=(
                identities[node.pk].certificate_expires_at if node.pk in identities else None
            ),
        )
        for node in nodes
    ]
    return sorted(found, key=lambda one: (one.is_good, one.node.name))


def describe_condition(node: Node) -> str:
    """How a node is, in a word."""
    if node.revoked_at is not None:
        return "revoked"
    if node.left_at is not None:
        return "left"
    if node.last_seen_at is None or node.last_seen_at < utc_now() - QUIET_AFTER:
        return "silent"
    if node.drain_requested_at is not None:
        return "draining"
    if abs(read_clock_ahead_s(node)) > CLOCK_OFF_S_MAX:
        return "clock off"
    return "ready" if node.triton_ready else "no Triton"


def read_clock_ahead_s(node: Node) -> int:
    """By how many seconds its clock is ahead of ours; 0 where it did not say."""
    found = node.info.get(CLOCK_AHEAD)
    return found if isinstance(found, int) else 0


def count_fleet() -> FleetTotals:
    """The fleet in a few numbers."""
    now = utc_now()
    nodes = Node.objects.filter(revoked_at=None, left_at=None).aggregate(
        all=Count("pk"),
        ready=Count("pk", filter=Q(triton_ready=True, last_seen_at__gt=now - QUIET_AFTER)),
    )
    serving = Replica.objects.filter(wanted=True, purpose=Replica.Purpose.SERVE)
    replicas = serving.exclude(state__in=ENDED_STATES).aggregate(
        all=Count("pk"), ready=Count("pk", filter=Q(state=State.READY))
    )
    return FleetTotals(
        nodes=nodes["all"],
        ready_nodes=nodes["ready"],
        wanted_replicas=replicas["all"],
        ready_replicas=replicas["ready"],
        deployments=Deployment.objects.filter(stopped_at=None).count(),
        short_deployments=list_short_deployments().count(),
    )


def list_short_deployments() -> QuerySet[Deployment]:
    """Deployments of which no copy serves, though one should."""
    return (
        Deployment.objects.filter(stopped_at=None, slept_at=None)
        .annotate(
            ready=Count("replicas", filter=Q(replicas__wanted=True, replicas__state=State.READY))
        )
        .filter(ready=0)
        .select_related("version__model__account")
        .order_by("created_at")
    )


def count_new_signing_keys() -> tuple[int, datetime | None]:
    """Keys whose versions wait in review until somebody makes sure of the key."""
    rows = SigningKey.objects.filter(trusted_at=None, revoked_at=None)
    found = rows.aggregate(count=Count("pk"), oldest=Min("created_at"))
    return found["count"], found["oldest"]


def _read_count(info: Mapping[str, Any], name: str) -> int | None:
    """A number that a node wrote; its word is not taken as it is."""
    value = info.get(name)
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if is_count else None
