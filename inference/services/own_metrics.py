"""Numbers of the platform that inference knows: the queue, nodes, replicas, webhooks."""

from __future__ import annotations

from django.db import connection
from django.db.models import Count, Min

from inference.models import Job, Node, Replica, WebhookDelivery, WebhookEvent
from inference.selectors.node import QUIET_AFTER
from inference.selectors.queue import list_depths
from marketplace.core.clock import utc_now
from marketplace.services.platform_metrics import Part, Samples, age_s, gauge

NODE_STATES = ("ready", "not_ready", "draining", "silent")

_QUEUE = """
    SELECT p.priority, coalesce(q.waiting, 0),
        coalesce(extract(epoch FROM clock_timestamp() - q.oldest_at), 0)::float8
    FROM unnest(%s::smallint[]) AS p(priority) LEFT JOIN (
        SELECT j.priority, count(*) AS waiting, min(j.created_at) AS oldest_at
        FROM inference_job j WHERE j.state = 'queued' GROUP BY 1
    ) q ON q.priority = p.priority ORDER BY 1
"""


def _read_queue() -> Samples:
    with connection.cursor() as cursor:
        cursor.execute(_QUEUE, [list(Job.Priority.values)])
        for priority, waiting, oldest_s in cursor.fetchall():
            labels = {"class": Job.Priority(priority).name.lower()}
            yield "jobs_waiting", waiting, labels
            yield "jobs_oldest_seconds", oldest_s, labels
    waits = [one.wait_s for one in list_depths() if one.waiting and one.wait_s is not None]
    yield "predicted_wait_seconds", max(waits, default=0), {}
    dead = Job.objects.filter(state=Job.State.DEAD, finished_at__isnull=False)
    yield "jobs_dead", dead.count(), {}


def _read_fleet() -> Samples:
    counts = dict.fromkeys(NODE_STATES, 0)
    for node in Node.objects.filter(revoked_at=None):
        counts[_name_state(node)] += 1
    for state, count in counts.items():
        yield "nodes", count, {"state": state}
    wanted = Replica.objects.filter(wanted=True, purpose=Replica.Purpose.SERVE)
    by_state = dict(wanted.values_list("state").annotate(count=Count("pk")))
    yield "replicas_wanted", sum(by_state.values()), {}
    yield "replicas_ready", by_state.get(Replica.State.READY, 0), {}


def _name_state(node: Node) -> str:
    if node.last_seen_at is None or node.last_seen_at < utc_now() - QUIET_AFTER:
        return "silent"
    if node.drain_requested_at is not None:
        return "draining"
    return "ready" if node.triton_ready else "not_ready"


def _read_webhooks() -> Samples:
    now = utc_now()
    due = WebhookDelivery.objects.filter(state=WebhookDelivery.State.WAITING, next_at__lte=now)
    found = due.aggregate(count=Count("pk"), oldest=Min("next_at"))
    yield "webhooks_due", found["count"], {}
    yield "webhooks_late_seconds", age_s(found["oldest"]), {}
    unspread = WebhookEvent.objects.filter(spread_at=None).aggregate(oldest=Min("created_at"))
    yield "webhook_outbox_seconds", age_s(unspread["oldest"]), {}


QUEUE = Part(
    "queue",
    (
        gauge("jobs_waiting", "Predictions that wait in the queue.", ("class",)),
        gauge("jobs_oldest_seconds", "How long the first of them has waited.", ("class",)),
        gauge(
            "predicted_wait_seconds",
            "How long a job that comes now will wait, of the version where it is longest.",
        ),
        gauge("jobs_dead", "Predictions that no node could run."),
    ),
    _read_queue,
)
FLEET = Part(
    "fleet",
    (
        gauge("nodes", "Nodes that are not revoked, by what was last heard of them.", ("state",)),
        gauge("replicas_wanted", "Copies of models that should serve."),
        gauge("replicas_ready", "Those of them that do."),
    ),
    _read_fleet,
)
WEBHOOKS = Part(
    "webhooks",
    (
        gauge("webhooks_due", "Deliveries whose time has come, and that have not left."),
        gauge("webhooks_late_seconds", "How long the first of them is due."),
        gauge("webhook_outbox_seconds", "Age of the first event that is not spread yet."),
    ),
    _read_webhooks,
)
PARTS = (QUEUE, FLEET, WEBHOOKS)
