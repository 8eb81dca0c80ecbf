"""What a node counts, and what it looks up of itself when it is scraped.

One node runs in a process. What happens is counted where it happens; what is, is told by the
node itself (`watch`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from inference.node.errors import INFRASTRUCTURE_CODES
from marketplace.core.exposition import WAIT_S, Family, Page, Registry

SETTING = "STRONGROOM_NODE_METRICS_LISTEN"
LOADED = "ok"
CANCELLED = "cancelled"
# Of a load that the model itself is to blame for; which of many is in the log.
MODEL_FAULT = "model"
STATES = (
    *("assigned", "fetching", "starting", "decrypting", "validating", "loading", "warming"),
    *("ready", "failed", "unloading", "unloaded"),
)
CANARY_RESULTS = ("right", "wrong", "unanswered")
JOB_OUTCOMES = ("ok", "error", "stopped", "handed_back")

REGISTRY = Registry("strongroom_node_")
LOADS = REGISTRY.counter(
    "loads_total",
    "Loads of a model that have ended, and how.",
    ("outcome",),
    known=[(one,) for one in (LOADED, CANCELLED, MODEL_FAULT, *sorted(INFRASTRUCTURE_CODES))],
)
LOAD_SECONDS = REGISTRY.timer(
    "load_seconds",
    "From the decision to load a model until it answers.",
    edges=(*WAIT_S, 120.0, 240.0),
)
CACHE = REGISTRY.counter(
    "cache_requests_total",
    "Versions that were asked of the cache of ciphertext: all there, or not.",
    ("result",),
    known=[("hit",), ("miss",)],
)
FETCHED = REGISTRY.counter("fetched_bytes_total", "Octets of ciphertext that were fetched.")
JOBS = REGISTRY.counter(
    "jobs_total",
    "Jobs of the queue that have ended here, and how.",
    ("outcome",),
    known=[(one,) for one in JOB_OUTCOMES],
)
CANARIES = REGISTRY.counter(
    "canary_answers_total",
    "Test vectors that replicas in service were asked.",
    ("result",),
    known=[(one,) for one in CANARY_RESULTS],
)
CRASHES = REGISTRY.counter("replica_crashes_total", "Models whose process ended in service.")
LEASES_LOST = REGISTRY.counter(
    "leases_lost_total", "Leases that ended without having been given back."
)
RENEWALS_FAILED = REGISTRY.counter(
    "certificate_renewals_failed_total", "Tries to renew the certificate that failed."
)


def _gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Family:
    return Family(f"strongroom_node_{name}", "gauge", text, labels)


GAUGES = (
    _gauge("triton_ready", "1 while the model server takes requests."),
    _gauge("replicas", "Copies of models here, by state.", ("state",)),
    _gauge("leases_held", "Keys that the node has a lease for."),
    _gauge("jobs_running", "Jobs of the queue that run now."),
    _gauge("cache_bytes", "Room that the cache of ciphertext takes."),
    _gauge("cache_limit_bytes", "How much it may take."),
    _gauge("disk_free_bytes", "What is free on the disk of the node's folder."),
    _gauge("disk_size_bytes", "How large that disk is."),
    _gauge("certificate_expiry_timestamp_seconds", "When the certificate ends, since 1970."),
    _gauge("clock_skew_seconds", "How far this clock is ahead of the platform's; whole seconds."),
    _gauge("platform_heard_timestamp_seconds", "When the platform last took a report."),
)
# Name without the prefix, value, labels.
Samples = Iterator[tuple[str, float, dict[str, str]]]
_sources: list[Callable[[], Samples]] = []


def watch(read: Callable[[], Samples]) -> None:
    """Look these up at each scrape; takes the place of what was watched before."""
    _sources[:] = [read]


def name_failure(reason_code: str) -> str:
    """The label of a load that failed: infrastructure by its code, all else is the model's."""
    return reason_code if reason_code in INFRASTRUCTURE_CODES else MODEL_FAULT


def _write(page: Page) -> None:
    for read in _sources:
        for name, value, labels in read():
            page.add(f"strongroom_node_{name}", value, labels)


REGISTRY.gauges(GAUGES, _write)
