"""The queue under nodes that die, repeat themselves and come late; and the judge of it.

Each guarantee is broken on purpose, in a copy of the functions, and the judge has to find it.
`STRONGROOM_CHAOS_SEED` decides who does what; without it, it is another each time, and is printed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from embedded import postgres
from inference.broker.postgres import PostgresBroker
from inference.broker.wakeups import Wakeups
from tests import servers
from tests.chaos import wrong_queue
from tests.chaos.rehearsal import Rehearsal
from tests.inference.broker.conftest import Queue, make_queue

JOB_COUNT = 150
SEED = int(os.environ.get("STRONGROOM_CHAOS_SEED") or random.randrange(10**6))


@pytest.fixture
def queue(transactional_db, database_urls) -> Iterator[Queue]:
    yield from make_queue(database_urls["gateway"], None)


@pytest.fixture
def superuser_url(database_urls) -> str:
    provided = servers.provide()
    name = urlsplit(database_urls["owner"]).path.strip("/")
    password = provided.superuser_password
    return postgres.url(provided.postgres_port, postgres.SUPERUSER, password, name)


@contextmanager
def splitting(queue: Queue, url: str) -> Iterator[PostgresBroker]:
    broker = wrong_queue.SplitBroker(url, Wakeups(None))
    queue.run(broker.open())
    yield broker
    queue.run(broker.close())


def kinds_of(faults: list[str]) -> set[str]:
    return {one.partition(":")[0] for one in faults}


def test_nothing_is_lost_or_doubled_whatever_nodes_do(queue: Queue, superuser_url, capsys):
    rehearsal = Rehearsal(queue, superuser_url, SEED)

    faults = rehearsal.run(2 * JOB_COUNT)

    states = {one: rehearsal.count(one) for one in ("succeeded", "canceled", "dead", "failed")}
    stale = sum(one.outcome == "stale" for one in rehearsal.told)
    with capsys.disabled():
        print(f"\nSTRONGROOM_CHAOS_SEED={SEED}: {states}, stale {stale}, cut {rehearsal.cut_count}")
    assert faults == rehearsal.refused == []
    # Otherwise it would prove little.
    assert states["succeeded"] > JOB_COUNT
    assert min(states["canceled"], states["dead"], stale, rehearsal.cut_count) > 0


def test_a_queue_without_fences_is_found_out(queue: Queue, superuser_url):
    with wrong_queue.without_fence(superuser_url):
        faults = Rehearsal(queue, superuser_url, SEED).run(JOB_COUNT)

    assert "zombie" in kinds_of(faults)


def test_paying_for_each_delivery_is_found_out(queue: Queue, superuser_url):
    with wrong_queue.paid_at_least_once(superuser_url):
        faults = Rehearsal(queue, superuser_url, SEED).run(JOB_COUNT)

    assert {"double", "money"} <= kinds_of(faults)


def test_a_booking_outside_of_the_transaction_is_found_out(
    queue: Queue, superuser_url, database_urls
):
    with wrong_queue.split(superuser_url), splitting(queue, database_urls["gateway"]) as broker:
        faults = Rehearsal(queue, superuser_url, SEED, broker=broker).run(JOB_COUNT)

    assert {"paid", "money"} <= kinds_of(faults)
