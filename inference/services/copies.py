"""More copies of a version that is asked for more than its copies bear, and fewer later.

The owner's number of copies stays what it is: those of the load come on top, cost the owner
nothing, and are for the time of the load. A copy is only wanted where a live node could hold it:
nodes are ordered by whoever reads `strongroom_pool_demand_nodes`.
"""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.cache import cache
from django.db import connection, transaction
from django.db.models import Count, Q
from redis.exceptions import RedisError

from inference.broker.job import Priority
from inference.core import copies, scaling
from inference.core.copies import CopyLimits, VersionLoad
from inference.core.scaling import Wish
from inference.models import Deployment, Replica
from inference.selectors import deployment as deployments
from inference.selectors import node as nodes
from inference.services.deployment import release_replicas
from marketplace.core import ids
from marketplace.core.clock import utc_now

logger = logging.getLogger(__name__)

WINDOW = timedelta(seconds=60)
# Every worker comes by every few seconds; one look in that time is enough.
LOOK_EVERY_S = 10
_LOOK_KEY = "copies:look"
# Calls that are answered while they are waited for, by their time from the first octet to the
# last; jobs, of which a run counts, have rows of their own.
_LOAD = """
    SELECT version_id, sum(requests)::float8, sum(waiting_s)::float8, sum(busy)::float8 FROM (
        SELECT p.version_id, extract(epoch FROM p.completed_at - p.created_at) / %(window_s)s
            AS requests, 0 AS waiting_s, 0 AS busy
        FROM inference_prediction p
        WHERE p.id >= %(since)s AND p.completed_at IS NOT NULL
            AND NOT EXISTS (SELECT FROM inference_job j WHERE j.id = p.id)
        UNION ALL
        SELECT j.version_id, 0, coalesce(a.mean_us / 1e6, j.expected_ms / 1e3), 0
        FROM inference_job j LEFT JOIN inference_jobpace a ON a.version_id = j.version_id
        WHERE j.state = 'queued' AND j.cancel_requested_at IS NULL AND j.priority < %(batch)s
        UNION ALL
        SELECT j.version_id, 0, 0, 1 FROM inference_job j WHERE j.state IN ('leased', 'running')
    ) asked GROUP BY version_id
"""


def adjust_copies() -> int:
    """Look at the load of every version; returns how many deployments were changed.

    What was wanted lately is kept in Redis. Without it nothing is changed: a copy too many does
    less harm than one that is taken away in the middle of a load.
    """
    limits = read_limits()
    try:
        if limits.count_max <= 1 or not cache.add(_LOOK_KEY, 1, LOOK_EVERY_S):
            return 0
        loads, node_count = read_loads(), nodes.list_live_nodes().count()
        return sum(
            _adjust(deployment, loads.get(deployment.version_id, VersionLoad()), node_count, limits)
            for deployment in deployments.list_active_deployments()
        )
    except RedisError:
        logger.warning("copies stay as they are: Redis does not answer")
        return 0


def read_limits() -> CopyLimits:
    """As the platform's settings have them."""
    return CopyLimits(
        requests=float(settings.COPY_REQUESTS),
        wait_s=float(settings.COPY_WAIT_S),
        count_max=settings.COPIES_MAX,
    )


def read_loads() -> dict[UUID, VersionLoad]:
    """What each version is asked for, by its id."""
    asked: dict[str, Any] = {
        "window_s": WINDOW.total_seconds(),
        "since": ids.lowest_id(utc_now() - WINDOW),
        "batch": Priority.BATCH,
    }
    with connection.cursor() as cursor:
        cursor.execute(_LOAD, asked)
        return {row[0]: VersionLoad(*row[1:]) for row in cursor.fetchall()}


def _adjust(deployment: Deployment, load: VersionLoad, node_count: int, limits: CopyLimits) -> bool:
    """Decide for one deployment; whether its number was changed."""
    key = f"copies:{deployment.pk}"
    least, extra = deployment.replica_count, deployment.load_replica_count
    if deployment.slept_at is not None:
        cache.delete(key)
        return _set_extra(deployment, 0)
    wanted = copies.want_copies(load, least=least, nodes=node_count, limits=limits)
    if wanted <= least and not extra:
        return False  # Most versions, most of the time: nothing is to be remembered of them.
    before = tuple(Wish(*one) for one in cache.get(key) or ())
    wishes = copies.keep_copies(before, wanted, now_s=time.time(), have=least + extra)
    cache.set(key, [(one.at_s, one.nodes) for one in wishes], 2 * copies.WINDOW_S)
    return _set_extra(deployment, max(0, scaling.choose_nodes(wishes) - least))


def _set_extra(deployment: Deployment, count: int) -> bool:
    if count == deployment.load_replica_count:
        return False
    with transaction.atomic():
        rows = Deployment.objects.filter(
            pk=deployment.pk, load_replica_count=deployment.load_replica_count
        )
        # Another worker may have decided meanwhile.
        if not rows.update(load_replica_count=count):
            return False
        deployment.load_replica_count = count
        if count + deployment.replica_count < deployments.list_working_replicas(deployment).count():
            release_surplus(deployment)
    logger.info("version %s: %d copies for its load", deployment.version_id, count)
    return True


def release_surplus(deployment: Deployment) -> int:
    """Give back the copies beyond its number; returns how many.

    First those that do not serve yet, then those on nodes that hold the least else: such a node
    is soon empty, and can be given back.
    """
    working = deployments.list_working_replicas(deployment).annotate(
        beside=Count("node__replicas", filter=Q(node__replicas__wanted=True))
    )
    ordered = sorted(
        working, key=lambda one: (one.state == Replica.State.READY, one.beside, one.pk)
    )
    surplus = len(ordered) - deployment.replica_count - deployment.load_replica_count
    given_back = [one.pk for one in ordered[: max(0, surplus)]]
    return release_replicas(Replica.objects.filter(pk__in=given_back))
